"""VQAv2: questions with their answers, and the list of answers to choose from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import records_of, write_images, write_json

TRAIN = Options(splits=("train",))


def write_vqa(src: Path, split: str, answers: Sequence[str | None], questions: list[str] | None = None) -> None:
    """Write one question an answer (None: no annotation), two an image."""
    name = f"mscoco_{split}{'2015' if split == 'test' else '2014'}"
    rows: list[dict[str, Any]] = [{"question_id": 10 + i, "image_id": 1 + i // 2} for i in range(len(answers))]
    for row, question in zip(rows, questions or ["what colour?"] * len(rows), strict=True):
        row["question"] = question
    write_json(src / f"v2_OpenEnded_{name}_questions.json", {"questions": rows})
    annotations = [
        {
            **row,
            "multiple_choice_answer": answer,
            "answers": [{"answer": answer, "answer_id": i} for i in range(10)],
            "answer_type": "other",
            "question_type": "what",
        }
        for row, answer in zip(rows, answers, strict=True)
        if answer is not None
    ]
    if split != "test":
        write_json(src / f"v2_{name}_annotations.json", {"annotations": annotations})
    folder = name.removeprefix("mscoco_")
    write_images(src / folder, *{f"COCO_{folder}_{row['image_id']:012d}.jpg" for row in rows})


def test_questions_of_an_image_share_its_record(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["red", "blue", "red"])
    convert("vqav2", tmp_path, tmp_path / "out", TRAIN)
    records = records_of(tmp_path / "out" / "vqav2" / "train")
    assert set(records) == {"coco/1", "coco/2"}
    first, second = records["coco/1"].questions
    assert (first.id, first.question, first.answers) == ("10", "what colour?", ("red",) * 10)
    assert (second.answers[9], second.answer_type, second.question_type) == ("blue", "other", "what")


def test_answers_that_occur_nine_times_in_training_are_listed(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["b"] * 9 + ["a"] * 9 + ["c"] * 10 + ["d"] * 8)
    write_vqa(tmp_path, "val", ["d"] * 20)
    convert("vqav2", tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["c", "a", "b"]
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("val",)))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["c", "a", "b"]


def test_a_given_list_of_answers_is_used(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["b"] * 9)
    write_json(tmp_path / "list.json", ["yes", "é"])
    arguments = ["vqav2", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "train"]
    main([*arguments, "--answers", str(tmp_path / "list.json")])
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["yes", "é"]
    write_json(tmp_path / "list.json", {"yes": 0})
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--answers", str(tmp_path / "list.json")])
    assert caught.value.code == 2


def test_questions_without_text_or_answers_are_counted(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["red", None, "red", None], ["what?", "who?", " ", "where?"])
    convert("vqav2", tmp_path, tmp_path / "out", TRAIN)
    manifest = ShardFolder(tmp_path / "out" / "vqav2" / "train").manifest
    assert manifest.skipped == {"question without answers": 2, "empty question": 1}
    assert (manifest.images, manifest.samples) == (1, 1)


def test_val_falls_into_two_parts_by_image(tmp_path: Path) -> None:
    write_vqa(tmp_path, "val", ["red"] * 200)  # two questions on each of the images 1 to 100
    splits = ("val", "val_train", "val_rest")
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=splits, workers=1))
    whole, train, rest = (set(records_of(tmp_path / "out" / "vqav2" / split)) for split in splits)
    assert rest == {"coco/40", "coco/80"}
    assert train == whole - rest
    assert len(whole) == 100
    assert ShardFolder(tmp_path / "out" / "vqav2" / "val_rest").manifest.samples == 4


def test_answers_of_val_count_where_wanted(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["a"] * 9 + ["b"] * 5)
    write_vqa(tmp_path, "val", ["b"] * 4)
    arguments = ["vqav2", "--src", str(tmp_path), "--splits", "train", "--out"]
    main([*arguments, str(tmp_path / "out")])
    main([*arguments, str(tmp_path / "both"), "--answers_with_val", "true"])
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["a"]
    assert json.loads((tmp_path / "both" / "answers.json").read_text()) == ["a", "b"]


def test_a_conversion_that_goes_on_after_training_still_lists_the_answers(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["b"] * 9)
    write_vqa(tmp_path, "val", ["d"])
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("val",)))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["b"]
    write_json(tmp_path / "out" / "answers.json", ["given"])
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("val",)))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["given"]


def test_rows_of_wrong_types_are_counted(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["red"] * 4)
    path = tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json"
    questions = json.loads(path.read_text())["questions"]
    questions[1]["image_id"] = "1"
    questions[2]["question_id"] = 10
    write_json(path, {"questions": questions})
    path = tmp_path / "v2_mscoco_train2014_annotations.json"
    annotations = json.loads(path.read_text())["annotations"]
    annotations[3]["answers"] = ["red"]
    write_json(path, {"annotations": annotations})
    convert("vqav2", tmp_path, tmp_path / "out", TRAIN)
    manifest = ShardFolder(tmp_path / "out" / "vqav2" / "train").manifest
    assert manifest.skipped == {"field of a wrong type": 2, "id given twice": 1, "question without answers": 1}
    assert manifest.samples == 1


def test_the_answers_of_the_test_split_are_hidden(tmp_path: Path) -> None:
    write_vqa(tmp_path, "test", [None, None])
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("test",)))
    records = records_of(tmp_path / "out" / "vqav2" / "test")
    assert [question.answers for question in records["coco/1"].questions] == [(), ()]
    assert not (tmp_path / "out" / "answers.json").exists()
    with pytest.raises(ValueError, match="no split 'dev', only train, val, test, test-dev, val_train, val_rest"):
        convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("dev",)))
