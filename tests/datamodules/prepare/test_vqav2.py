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

TRAIN, VAL = Options(splits=("train",)), Options(splits=("val",))


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
    write_vqa(tmp_path, "val", ["red", "blue", "red"])
    convert("vqav2", tmp_path, tmp_path / "out", VAL)
    records = records_of(tmp_path / "out" / "vqav2" / "val")
    assert set(records) == {"coco/1", "coco/2"}
    first, second = records["coco/1"].questions
    assert (first.id, first.question, first.answers) == ("10", "what colour?", ("red",) * 10)
    assert (second.answers[9], second.answer_type, second.question_type) == ("blue", "other", "what")


def test_answers_are_normalised_and_counted_over_train_and_val_as_vilt_and_meter_do(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["yes"] * 9 + ["t-shirt"] * 9 + ["the man"] * 9 + ["one"] * 5 + ["dont know"] * 9)
    write_vqa(tmp_path, "val", ["1"] * 4 + ["yes", "no"])
    convert("vqav2", tmp_path, tmp_path / "out", TRAIN)
    listed = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert listed == ["yes", "1", "don't know", "man", "t shirt"]  # their five; the order is ours


def test_training_questions_without_a_listed_answer_are_left_out_unless_kept(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["e"] * 9 + ["b"])
    write_vqa(tmp_path, "val", ["b", "e"])
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("train", "val", "val_train")))
    folders = {
        split: ShardFolder(tmp_path / "out" / "vqav2" / split).manifest for split in ("train", "val", "val_train")
    }
    assert {split: manifest.samples for split, manifest in folders.items()} == {"train": 9, "val": 2, "val_train": 1}
    assert folders["train"].skipped == {"question without a listed answer": 1}
    arguments = ["vqav2", "--src", str(tmp_path), "--splits", "train", "--keep_unlisted", "true", "--out"]
    main([*arguments, str(tmp_path / "kept")])
    assert ShardFolder(tmp_path / "kept" / "vqav2" / "train").manifest.samples == 10


def test_a_missing_file_of_counted_answers_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vqa(tmp_path, "train", ["a"] * 9)
    with pytest.raises(SystemExit) as caught:
        main(["vqav2", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "train"])
    assert caught.value.code == 2
    assert "v2_mscoco_val2014_annotations.json" in capsys.readouterr().err
    assert not (tmp_path / "out" / "vqav2" / "train" / "manifest.json").exists()


def test_answers_that_occur_nine_times_in_training_are_listed(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["b"] * 9 + ["e"] * 9 + ["c"] * 10 + ["d"] * 8)
    write_vqa(tmp_path, "val", ["f"] * 8)
    convert("vqav2", tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["c", "b", "e"]
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("val",)))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["c", "b", "e"]


def test_a_given_list_of_answers_is_used(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["yes"] * 9)
    write_json(tmp_path / "list.json", ["yes", "é"])
    arguments = ["vqav2", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "train"]
    main([*arguments, "--answers", str(tmp_path / "list.json")])
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["yes", "é"]
    write_json(tmp_path / "list.json", {"yes": 0})
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--answers", str(tmp_path / "list.json")])
    assert caught.value.code == 2


@pytest.mark.parametrize("given", ["train", "val_train"])
def test_training_splits_of_different_lists_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    write_vqa(tmp_path, "train", ["yes"] * 9)
    write_vqa(tmp_path, "val", ["yes", "no"])
    write_json(tmp_path / "list.json", ["yes", "no"])
    arguments = ["vqav2", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits"]
    lists = {given: ["--answers", str(tmp_path / "list.json")]}
    main([*arguments, "train", *lists.get("train", [])])
    listed = (tmp_path / "out" / "answers.json").read_text()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "val_train", *lists.get("val_train", [])])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "out/vqav2/train was converted with " in told
    assert "--answers list.json" in told
    assert "the frequent answers of train and val" in told
    assert not (tmp_path / "out" / "vqav2" / "val_train").exists()
    assert (tmp_path / "out" / "answers.json").read_text() == listed
    main([*arguments, "val_train", *lists.get("train", [])])  # with the list that train has
    main([*arguments, "train", "val_train", *lists.get("val_train", [])])  # or both anew


def test_evaluated_splits_need_no_list_and_change_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vqa(tmp_path, "train", ["yes"] * 9)
    write_vqa(tmp_path, "val", ["yes", "no"])
    write_json(tmp_path / "list.json", ["yes", "no"])
    write_json(tmp_path / "other.json", ["no"])
    arguments = ["vqav2", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits"]
    main([*arguments, "train", "--answers", str(tmp_path / "list.json")])
    main([*arguments, "val"])
    with pytest.raises(SystemExit):
        main([*arguments, "val_rest", "--answers", str(tmp_path / "other.json")])
    assert "--answers other.json" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["yes", "no"]


def test_questions_without_text_or_answers_are_counted(tmp_path: Path) -> None:
    write_vqa(tmp_path, "val", ["red", None, "red", None], ["what?", "who?", " ", "where?"])
    convert("vqav2", tmp_path, tmp_path / "out", VAL)
    manifest = ShardFolder(tmp_path / "out" / "vqav2" / "val").manifest
    assert manifest.skipped == {"question without answers": 2, "empty question": 1}
    assert (manifest.images, manifest.samples) == (1, 1)


def test_val_falls_into_two_parts_by_image(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["red"])
    write_vqa(tmp_path, "val", ["red"] * 200)  # two questions on each of the images 1 to 100
    splits = ("val", "val_train", "val_rest")
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=splits, workers=1))
    whole, train, rest = (set(records_of(tmp_path / "out" / "vqav2" / split)) for split in splits)
    assert rest == {"coco/40", "coco/80"}
    assert train == whole - rest
    assert len(whole) == 100
    assert ShardFolder(tmp_path / "out" / "vqav2" / "val_rest").manifest.samples == 4


def test_answers_of_val_count_unless_told_otherwise(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["b"] * 9 + ["e"] * 5)
    write_vqa(tmp_path, "val", ["e"] * 4)
    arguments = ["vqav2", "--src", str(tmp_path), "--splits", "train", "--out"]
    main([*arguments, str(tmp_path / "both")])
    main([*arguments, str(tmp_path / "train"), "--answers_with_val", "false"])
    assert json.loads((tmp_path / "both" / "answers.json").read_text()) == ["b", "e"]
    assert json.loads((tmp_path / "train" / "answers.json").read_text()) == ["b"]


def test_a_conversion_that_goes_on_after_training_still_lists_the_answers(tmp_path: Path) -> None:
    write_vqa(tmp_path, "train", ["b"] * 9)
    write_vqa(tmp_path, "val", ["d"])
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("val",)))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["b"]
    write_json(tmp_path / "out" / "answers.json", ["given"])
    convert("vqav2", tmp_path, tmp_path / "out", Options(splits=("val",)))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["given"]


def test_rows_of_wrong_types_are_counted(tmp_path: Path) -> None:
    write_vqa(tmp_path, "val", ["red"] * 4)
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions = json.loads(path.read_text())["questions"]
    questions[1]["image_id"] = "1"
    questions[2]["question_id"] = 10
    write_json(path, {"questions": questions})
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    annotations = json.loads(path.read_text())["annotations"]
    annotations[3]["answers"] = ["red"]
    write_json(path, {"annotations": annotations})
    convert("vqav2", tmp_path, tmp_path / "out", VAL)
    manifest = ShardFolder(tmp_path / "out" / "vqav2" / "val").manifest
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
