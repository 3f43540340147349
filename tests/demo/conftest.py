"""Tiny models on the desk of the demo, a small world in the raw layouts, and the page served from this process."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from tests.inference.conftest import SIZE, exported, tokenizer_folder  # noqa: F401 (fixtures)
from vle_lightning.cli import main
from vle_lightning.demo.examples import Examples
from vle_lightning.demo.limits import Limits
from vle_lightning.demo.models import Model, Models, short_names
from vle_lightning.demo.page import Desk
from vle_lightning.inference.processor import Processor
from vle_lightning.tasks.pretrain import PretrainTask

Run = Callable[[str], Any]
SCENES = 200
COLOURS = ("red", "blue", "green", "orange")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 scenes of one rectangle each, with a caption and a question; two questions of VCR."""
    root = tmp_path_factory.mktemp("world")
    raw, captions, questions = root / "raw", [], []
    for folder in ("coco/images", "coco/annotations", "vqav2/val2014", "vcr/vcr1images/toy"):
        (raw / folder).mkdir(parents=True)
    for number in range(SCENES):
        scene = Image.new("RGB", (48, 48), "white")
        colour, left = COLOURS[number % 4], number % 30
        ImageDraw.Draw(scene).rectangle((left, 8, left + 16, 24), fill=colour)
        scene.save(raw / "coco/images" / f"{number:012d}.jpg")
        scene.save(raw / "vqav2/val2014" / f"COCO_val2014_{number:012d}.jpg")
        captions.append({"image_id": number, "caption": f"a {colour} car near the chair", "id": number})
        questions.append({"image_id": number, "question": "What colour is the car?", "question_id": number})
    write(raw / "coco/annotations/captions_val.json", {"annotations": captions})
    write(raw / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    rows = []
    for number in range(2):
        Image.new("RGB", (96, 48), "grey").save(raw / "vcr/vcr1images/toy" / f"{number}.jpg")
        boxes = [[4, 4, 40, 40, 1.0], [50, 4, 90, 44, 1.0]]
        write(raw / "vcr/vcr1images/toy" / f"{number}.json", {"boxes": boxes, "width": 96, "height": 48})
        rows.append(
            {
                "annot_id": f"val-{number}",
                "family": "place",
                "img_fn": f"toy/{number}.jpg",
                "metadata_fn": f"toy/{number}.json",
                "objects": ["dog", "car"],
                "question": ["where", "is", [0], "?"],
                "answer_choices": [[[0], "is", "near", [1]], ["here"], ["there"], ["red"]],
                "answer_label": 0,
                "rationale_choices": [[[1], "is", "blue"], ["two"], ["no"], ["small"]],
                "rationale_label": 0,
            }
        )
    (raw / "vcr/val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def desk(
    exported: Callable[[str], Path],  # noqa: F811
    tokenizer_folder: Path,  # noqa: F811
    world: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Desk:
    """A model of each kind, and the small world; nothing but the world's folder may be searched."""
    sources = [str(exported(kind)) for kind in ("pretrain", "vqa", "vcr-q2a", "vcr-qa2r", "dual")]
    torch.manual_seed(1)
    other = tmp_path_factory.mktemp("models") / "other"  # to compare with
    PretrainTask("tiny", classes=5).save_pretrained(other)
    Processor.prepared(str(tokenizer_folder), SIZE).save_pretrained(other)
    sources.append(str(other))
    names = short_names(sources)
    models = Models(Model(source, name, device="cpu") for source, name in zip(sources, names, strict=True))
    examples = Examples(world)
    return Desk(models, Limits(), examples, examples.folder)


@pytest.fixture
def scene(desk: Desk) -> str:
    """The path of a picture of the world."""
    return desk.examples.scenes[0].picture


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command as it is shown, and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(shown: str) -> Any:  # noqa: ANN401 (JSON)
        python, option, package, *arguments = shlex.split(shown)
        assert (python, option, package) == ("python", "-m", "vle_lightning")
        assert main([*arguments, "--device", "cpu"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="session")
def address(desk: Desk) -> Iterator[str]:
    """The page, served on a free port; visitors may name folders."""
    from dataclasses import replace

    from vle_lightning.demo.app import build_app, serve
    from vle_lightning.demo.place import Place

    wide = replace(desk, folders=True)
    app = build_app(wide)
    yield serve(app, wide, Place(), wait=False).rstrip("/")
    app.close()
