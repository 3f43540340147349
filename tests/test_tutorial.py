"""The tutorial's commands, run from its own text in a folder that holds nothing but pictures and questions."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from datamodules.prepare.__main__ import main as prepare
from tests.pages import ROOT, blocks
from vle_lightning.experiment import read_settings

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COLOURS, SHAPES = ("Red", "green", "blue", "yellow"), ("circle", "square", "triangle")
PHOTOS = 24
SHORT = "--trainer.max_steps 4 --validate_every 2"  # as the page has it
ALSO = "--trainer.accelerator cpu --trainer.enable_progress_bar false --data.workers 0 --data.batch_size 8"
SAVED = ("mine.yaml", "mine_vle.yaml")  # of the page's YAML blocks, in their order


def draw_photos(folder: Path) -> list[dict[str, object]]:
    """Draw pictures that stand in for photos, and return their questions in the page's form."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    rows: list[dict[str, object]] = []
    for number in range(PHOTOS):
        colour, shape = COLOURS[number % 4], SHAPES[number % 3]
        x, y = draw.randrange(90), draw.randrange(50)
        box = (x, y, x + 60, y + 60)
        picture = Image.new("RGB", (160, 120), "grey")
        pen = ImageDraw.Draw(picture)
        if shape == "triangle":
            pen.polygon([(x, y + 60), (x + 60, y + 60), (x + 30, y)], fill=colour.lower())
        else:
            (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour.lower())
        name = f"images/{number:03}.jpg"
        picture.save(folder / f"{number:03}.jpg")
        for question, answers in (("What colour is it?", colour), ("What shape is it?", [shape, shape])):
            rows.append({"question_id": len(rows), "image": name, "question": question, "answers": answers})
    return rows


def commands_of_the_page() -> list[str]:
    """Return the shell commands up to the published checkpoint, without the demo, which does not end by itself."""
    before = PAGE.split("## From a published checkpoint")[0]
    return [line for block in blocks(before) for line in block.splitlines() if not line.startswith("make demo ")]


def run(command: str, folder: Path) -> str:
    """Run a command as the page has it, training for a few steps."""
    if " study " in command:
        command = f"{command} {SHORT} {ALSO}"
    words = shlex.split(command)
    assert words[0] == "python", command
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_runs_from_its_own_text(tmp_path: Path) -> None:
    lines = map(json.dumps, draw_photos(tmp_path / "raw" / "mine" / "images"))
    (tmp_path / "raw" / "mine" / "train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "mine.yaml").write_text(blocks(PAGE, "yaml")[0])
    assert SHORT in PAGE
    told = {command: run(command, tmp_path) for command in commands_of_the_page()}
    assert [out for command, out in told.items() if command.startswith("python -c")] == ["7 answers\n"]
    scores = json.loads((tmp_path / "checkpoints" / "mine" / "metrics.json").read_text())
    assert {"val/vqa_accuracy", "blind/vqa_accuracy"} <= scores.keys()
    assert json.loads((tmp_path / "checkpoints" / "vqa-mine" / "predictions.json").read_text())
    assert len(list((tmp_path / "plots").glob("*.png"))) == 4
    asked = [json.loads(out) for command, out in told.items() if " ask " in command]
    assert len(asked) == 2
    assert asked[0] == asked[1]  # the run folder and the export give the same answers
    assert {row["answer"] for row in asked[0]} <= {*map(str.lower, COLOURS), *SHAPES}
    (tmp_path / "example.py").write_text(blocks(PAGE, "python")[0])
    printed = run("python example.py", tmp_path)
    assert all(str(row["answer"]) in printed for row in asked[0])


@pytest.mark.parametrize("number", range(len(SAVED)))
def test_the_experiments_of_the_page_parse(number: int, tmp_path: Path) -> None:
    file = tmp_path / SAVED[number]
    file.write_text(blocks(PAGE, "yaml")[number])
    assert f"`{SAVED[number]}`" in PAGE
    settings = read_settings(["--config", str(file)])
    assert (settings["task"], settings["model"]["answers"]) == ("vqa", 7)


def test_the_form_of_the_questions_is_taken_and_defects_are_told_with_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_photos(tmp_path / "images")
    (form,) = blocks(PAGE, "json")
    defects = [
        '{"question_id": 3, "image": "images/000.jpg", "question": "Where?"',
        '{"question_id": 4, "image": "images/missing.jpg", "question": "Where?", "answers": "here"}',
        '{"question_id": 5, "image": "images/000.jpg", "question": "Where?", "answers": []}',
    ]
    (tmp_path / "train.jsonl").write_text(form + "\n".join(defects) + "\n")
    prepare(["questions", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "train"])
    told = capsys.readouterr().out
    assert "1 images" in told
    assert "train.jsonl, line 3" in told
    assert "missing image (first: images/missing.jpg)" in told
    assert "question without answers (first: train.jsonl, question 5)" in told
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["a cup", "dark red", "here", "red"]
