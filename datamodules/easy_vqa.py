"""easy-VQA (github.com/vzhou842/easy-VQA, MIT): questions about one coloured shape, as one's own VQA data.

``python -m datamodules.easy_vqa --out data/easy_vqa/raw`` takes the data out of the package ``easy-vqa`` and writes
``train.jsonl``, ``test.jsonl`` and ``images/``, the form that ``python -m datamodules.prepare questions`` reads. The
set has no validation split: the conversion holds training images out (``--hold_out val=0.1``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

SPLITS = ("train", "test")
DATA = "easy_vqa/data/"  # in the package
YES_NO, SHAPES = ("yes", "no"), ("circle", "rectangle", "triangle")


def answer_type(answer: str) -> str:
    """Return the kind of an answer, by which scores are told apart: what is neither yes/no nor shape is a colour."""
    if answer in YES_NO:
        return "yes/no"
    return "shape" if answer in SHAPES else "colour"


def installed() -> Traversable:
    """Return the data of the installed package.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package easy-vqa is not installed: pip install easy-vqa, or name its --wheel")
    return Path(found.origin).parent / "data"


def in_wheel(wheel: Path) -> Traversable:
    """Return the data inside a wheel of the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no wheel.
    """
    if not wheel.is_file():
        raise FileNotFoundError(f"--wheel {wheel}: no such file; pip download --no-deps easy-vqa fetches it")
    try:
        return zipfile.Path(wheel, DATA)
    except zipfile.BadZipFile as error:
        raise ValueError(f"--wheel {wheel} is no wheel: {error}") from error


def read_questions(data: Traversable, split: str) -> Iterator[dict[str, Any]]:
    """Yield the questions of a split as rows of ``datamodules.prepare.questions``.

    Raises:
        FileNotFoundError: the split has no questions.
        ValueError: they are in another form.
    """
    file = data / split / "questions.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: name the folder of easy-VQA that holds train/ and test/")
    try:
        for number, (question, answer, image) in enumerate(json.loads(file.read_bytes())):
            yield {
                "question_id": f"{split}-{number}",
                "image": f"images/{split}/{int(image)}.png",
                "question": question,
                "answers": [answer],
                "answer_type": answer_type(answer),
            }
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no list of [question, answer, image number] ({error})") from error


def write_split(data: Traversable, split: str, out: Path) -> int:
    """Write images and questions of a split; the questions come last, so that they stand for all.

    Returns:
        The number of questions.
    """
    rows = list(read_questions(data, split))
    folder = out / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    for image in (data / split / "images").iterdir():
        if image.name.endswith(".png"):
            (folder / image.name).write_bytes(image.read_bytes())
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (out / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the raw form; returns the exit code: 0, or 2 where the user has to mend something."""
    parser = argparse.ArgumentParser("python -m datamodules.easy_vqa", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/easy_vqa/raw"), help="the raw folder (%(default)s)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wheel", type=Path, help="take the data out of this file; by default, of what is installed")
    source.add_argument("--data", type=Path, help="take this folder, with train/ and test/")
    options = parser.parse_args(arguments)
    try:
        data = options.data or (in_wheel(options.wheel) if options.wheel else installed())
        for split in SPLITS:
            print(f"{options.out / split}.jsonl: {write_split(data, split, options.out):,} questions")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
