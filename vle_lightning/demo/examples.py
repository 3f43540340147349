"""Examples of the embedded world, where `make data-toy` has drawn it: pictures, phrases and questions to start from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vle_lightning.errors import UserError

FEW = 6  # pictures below a tab
COCO, VQA, VCR = Path("raw/coco"), Path("raw/vqav2"), Path("raw/vcr")


class Scene(NamedTuple):
    """A picture with what can be asked about it."""

    picture: str
    captions: tuple[str, ...]
    questions: tuple[str, ...]


class VCRExample(NamedTuple):
    """A question of VCR about tagged objects."""

    name: str
    picture: str
    annotation: Mapping[str, Any]
    boxes: tuple[tuple[float, ...], ...]  # xyxy in pixels


class Examples:
    """The validation scenes of a world; there are none where the world has not been drawn."""

    def __init__(self, world: Path) -> None:
        """Read the first scenes and questions of a world such as ``data/toy``.

        Raises:
            UserError: a file of it cannot be read.
        """
        self.world = world
        self.scenes = read_scenes(world)
        self.vcr = read_vcr(world)
        folder = world / VQA / "val2014"
        self.folder = folder if folder.is_dir() else None  # of pictures to search

    def captions(self) -> list[str]:
        """Return the first caption of each scene."""
        return [scene.captions[0] for scene in self.scenes if scene.captions]

    def locate(self, upload: str | None) -> str:
        """Return where a picture lies in the world, if it is one of its pictures; else its name alone."""
        path = Path(upload or "picture.jpg")
        known = (*(scene.picture for scene in self.scenes), *(example.picture for example in self.vcr))
        for candidate in map(Path, known):
            if candidate.name == path.name and candidate.read_bytes() == path.read_bytes():
                return str(candidate)
        return path.name


def read_scenes(world: Path) -> tuple[Scene, ...]:
    """Return the first validation scenes, each with its captions and VQA questions."""
    captions = _texts_of(world / COCO / "annotations" / "captions_val.json", "annotations", "caption")
    questions = _texts_of(world / VQA / "v2_OpenEnded_mscoco_val2014_questions.json", "questions", "question")
    pictures = {number: world / COCO / "images" / f"{number:012d}.jpg" for number in captions}
    return tuple(
        Scene(str(picture), tuple(captions[number]), tuple(questions.get(number, ())))
        for number, picture in islice(pictures.items(), FEW)
        if picture.is_file()
    )


def read_vcr(world: Path) -> tuple[VCRExample, ...]:
    """Return the first validation questions of VCR, of each family of questions."""
    file = world / VCR / "val.jsonl"
    if not file.is_file():
        return ()
    found: dict[str, list[VCRExample]] = {}
    with reading(file), file.open(encoding="utf-8") as lines:
        for line in islice(lines, 10 * FEW):
            annotation = json.loads(line)
            picture = world / VCR / "vcr1images" / annotation["img_fn"]
            metadata = json.loads((world / VCR / "vcr1images" / annotation["metadata_fn"]).read_text(encoding="utf-8"))
            boxes = tuple(tuple(box[:4]) for box in metadata["boxes"])
            family = found.setdefault(str(annotation.get("family")), [])
            name = f"{annotation['annot_id']} ({annotation.get('family')})"
            family.append(VCRExample(name, str(picture), annotation, boxes))
    return tuple(example for family in found.values() for example in family[: FEW // 2])


def _texts_of(file: Path, rows: str, key: str) -> dict[int, list[str]]:
    if not file.is_file():
        return {}
    found: dict[int, list[str]] = {}
    with reading(file):
        for row in json.loads(file.read_text(encoding="utf-8"))[rows]:
            found.setdefault(row["image_id"], []).append(row[key])
    return found


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Tell what goes wrong with a file of the world in one sentence.

    Raises:
        UserError: it is not what the embedded world writes.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(
            f"--world: {file} cannot be read ({told}); delete the folder and draw it anew (make data-toy), or name "
            "another one"
        ) from error
