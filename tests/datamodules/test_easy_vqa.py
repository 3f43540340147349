"""easy-VQA as one's own questions."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from datamodules.easy_vqa import main
from datamodules.prepare.__main__ import main as prepare
from datamodules.vocabulary import main as make_vocabulary
from tests.datamodules.prepare.raw_files import picture, records_of

QUESTIONS = (
    ["what is the blue shape?", "rectangle"],
    ["what color is the shape?", "blue"],
    ["is there a shape?", "yes"],
    ["is there not a circle in the image?", "yes"],
    ["what color is the circle?", "blue"],
)
IMAGES = {"train": 20, "test": 3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data of the package, with five questions a picture."""
    folder = tmp_path / "easy_vqa" / "data"
    for split, count in IMAGES.items():
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "images" / ".DS_Store").write_bytes(b"not a picture")
        for number in range(count):
            (folder / split / "images" / f"{number}.png").write_bytes(picture(number, (8, 8), "PNG"))
        rows = [[*question, number] for number in range(count) for question in QUESTIONS]
        (folder / split / "questions.json").write_text(json.dumps(rows))
    return folder


def test_the_set_is_converted_with_a_tenth_of_the_pictures_held_out(data: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    assert main(["--data", str(data), "--out", str(raw)]) == 0
    rows = [json.loads(line) for line in (raw / "train.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "question_id": "train-5",
        "image": "images/train/1.png",
        "question": "what is the blue shape?",
        "answers": ["rectangle"],
        "answer_type": "shape",
    }
    assert [row["answer_type"] for row in rows[:3]] == ["shape", "colour", "yes/no"]
    splits = ("train", "val", "names", "test")
    prepare(["questions", "--src", str(raw), "--out", str(out), "--name", "easy_vqa", "--splits", *splits])
    records = {split: records_of(out / "easy_vqa" / split) for split in splits}
    assert {split: len(found) for split, found in records.items()} == {"train": 18, "val": 2, "names": 18, "test": 3}
    assert not records["train"].keys() & records["val"].keys()
    assert records["names"].keys() == records["train"].keys()
    asked = {split: {len(record.questions) for record in found.values()} for split, found in records.items()}
    assert asked == {"train": {5}, "val": {5}, "names": {1}, "test": {5}}
    prepare(
        ["questions", "--src", str(raw / "shapes"), "--out", str(out / "more"), "--name", "shapes", "--splits", "train"]
    )
    shapes = records_of(out / "more" / "shapes" / "train")
    assert {len(record.questions) for record in shapes.values()} == {2}
    assert shapes.keys() == records["train"].keys()
    assert json.loads((out / "answers.json").read_text()) == ["blue", "yes", "rectangle"]
    assert make_vocabulary([str(out / "easy_vqa" / "train"), "--tokenizer", str(tmp_path / "tokenizer")]) == 0


def test_a_wheel_holds_the_same(data: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "easy_vqa.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in sorted(data.rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path))
    assert main(["--data", str(data), "--out", str(tmp_path / "a")]) == 0
    assert main(["--wheel", str(wheel), "--out", str(tmp_path / "b")]) == 0
    files = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    assert files == {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.*")}
    assert len([path for path in files if path.suffix == ".png"]) == sum(IMAGES.values()) + IMAGES["train"]


def test_what_is_missing_or_broken_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "test" / "questions.json").write_text('[["what?", "blue", "zero"]]')
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    for arguments, told in (
        (["--data", str(data)], "test/questions.json is not a list of [question, answer, image number]"),
        (["--data", str(tmp_path)], "train/questions.json not found"),
        (["--wheel", str(tmp_path / "none.whl")], "none.whl: no such file"),
        (["--wheel", str(broken)], "broken.whl is not a wheel"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "raw")]) == 2
        assert told in capsys.readouterr().err
