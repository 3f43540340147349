"""One's own questions: a JSONL and a folder of images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import real_folder, records_of, skipped, write_images, write_json, write_lines

TRAIN = Options(splits=("train",))


def row(number: int, answers: object = "yes", image: str = "images/a.jpg", **changes: object) -> dict[str, Any]:
    """Return a question."""
    return {"question_id": number, "image": image, "question": f"What {number}?", "answers": answers, **changes}


def answers(out: Path) -> list[str]:
    """Return the list of answers."""
    listed: list[str] = json.loads((out / "answers.json").read_text())
    return listed


def test_an_image_has_one_record_with_all_its_questions(tmp_path: Path) -> None:
    rows = [
        row(0, ["a dog", "dog"], answer_type="OPEN", question_type="what"),
        row(1, image="images/a.png"),
        row(2, " no\n"),
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    write_images(tmp_path / "images", "a.jpg", "a.png")
    convert("questions", tmp_path, tmp_path / "out", TRAIN)
    records = records_of(tmp_path / "out" / "questions" / "train")
    assert set(records) == {"questions/images/a.jpg", "questions/images/a.png"}
    assert [tuple(vars(question).values()) for question in records["questions/images/a.jpg"].questions] == [
        ("0", "What 0?", ("a dog", "dog"), "OPEN", "what"),
        ("2", "What 2?", ("no",), "", ""),
    ]


def test_answers_are_listed_by_how_many_training_questions_have_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row(0, ["b", "b", "c"]), row(1, "b"), row(2, "a"), row(3, ["a"])])
    write_lines(tmp_path / "val.jsonl", [row(4, "d"), row(5, "d")])
    write_images(tmp_path / "images", "a.jpg")
    arguments = ["questions", "--src", str(tmp_path), "--out"]
    main([*arguments, str(tmp_path / "out")])
    assert answers(tmp_path / "out") == ["a", "b", "c"]
    main([*arguments, str(tmp_path / "out"), "--min_count", "2"])
    assert answers(tmp_path / "out") == ["a", "b"]
    write_json(tmp_path / "given.json", ["x"])
    main([*arguments, str(tmp_path / "out"), "--answers", str(tmp_path / "given.json")])
    main([*arguments, str(tmp_path / "out"), "--splits", "val"])
    assert answers(tmp_path / "out") == ["x"]
    main([*arguments, str(tmp_path / "new"), "--splits", "val"])
    assert answers(tmp_path / "new") == ["a", "b", "c"]


def test_defects_are_counted_with_the_question(tmp_path: Path) -> None:
    rows = [
        row(0),
        row(0, "other"),
        row(1, []),
        row(2, " "),
        row(3, question=""),
        row(4, {"yes": 1}),
        row(5, ["yes", 1]),
        row(6, question_id=None),
        row(7, image="images/b.jpg"),
        {key: value for key, value in row(8).items() if key != "answers"},
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    write_images(tmp_path / "images", "a.jpg")
    convert("questions", tmp_path, tmp_path / "out", TRAIN)
    folder = tmp_path / "out" / "questions" / "train"
    assert skipped(folder) == {
        "id given twice": 1,
        "question without answers": 3,
        "empty question": 1,
        "field of a wrong type": 3,
        "missing image": 1,
    }
    skips = ShardFolder(folder).manifest.skips
    assert {"kind": "id given twice", "where": "train.jsonl: question_id 0"} in skips


def test_test_splits_may_hide_their_answers(tmp_path: Path) -> None:
    hidden = {key: value for key, value in row(0).items() if key != "answers"}
    write_lines(tmp_path / "test_b.jsonl", [hidden, row(1, [])])
    write_images(tmp_path / "images", "a.jpg")
    convert("questions", tmp_path, tmp_path / "out", Options(splits=("test_b",)))
    (record,) = records_of(tmp_path / "out" / "questions" / "test_b").values()
    assert [(question.id, question.answers) for question in record.questions] == [("0", ())]
    assert skipped(tmp_path / "out" / "questions" / "test_b") == {"question without answers": 1}
    assert not (tmp_path / "out" / "answers.json").exists()


def test_the_real_questions_are_counted_exactly(tmp_path: Path) -> None:
    src = real_folder("vqa_rad")
    convert("questions", src, tmp_path, Options(workers=1))
    for split in ("train", "val"):
        rows = [json.loads(line) for line in (src / f"{split}.jsonl").read_text().splitlines()]
        manifest = ShardFolder(tmp_path / "questions" / split).manifest
        assert (manifest.images, manifest.samples) == (len({row["image"] for row in rows}), len(rows))
        assert manifest.skipped == {}
        records = records_of(tmp_path / "questions" / split)
        written = {
            (q.id, i.removeprefix("questions/"), q.question, q.answer_type)
            for i, r in records.items()
            for q in r.questions
        }
        assert written == {
            (r["question_id"], r["image"], " ".join(r["question"].split()), r["answer_type"]) for r in rows
        }
        if split == "train":
            given = Counter(answer for row in rows for answer in {" ".join(text.split()) for text in row["answers"]})
            assert answers(tmp_path) == sorted(given, key=lambda answer: (-given[answer], answer))


@pytest.mark.parametrize("count", ["0", "-1"])
def test_a_min_count_without_sense_is_refused(tmp_path: Path, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["questions", "--src", str(tmp_path), "--out", str(tmp_path), "--min_count", count])
    assert "min_count" in capsys.readouterr().err


def test_held_out_images_are_in_no_other_split_and_give_no_answers(tmp_path: Path) -> None:
    images = [f"images/{number}.jpg" for number in range(10)]
    rows = [row(10 * n + k, f"answer {n}", image) for n, image in enumerate(images) for k in range(2)]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "val.jsonl", [row(200)])
    write_images(tmp_path / "images", "a.jpg", *(f"{number}.jpg" for number in range(10)))
    command = f"questions --src {tmp_path} --out {tmp_path}/out --splits train dev val --hold_out dev=0.2"
    main(command.split())
    held_out = sorted(images, key=lambda image: hashlib.sha256(image.encode()).hexdigest())[:2]
    train, dev = (records_of(tmp_path / "out" / "questions" / split) for split in ("train", "dev"))
    assert set(dev) == {f"questions/{image}" for image in held_out}
    assert set(train) == {f"questions/{image}" for image in images} - set(dev)
    assert all(len(record.questions) == 2 for record in (*train.values(), *dev.values()))
    assert answers(tmp_path / "out") == [f"answer {n}" for n, image in enumerate(images) if image not in held_out]
    write_lines(tmp_path / "train.jsonl", reversed(rows))  # the choice is by name
    main([*command.split(), "--name", "again"])
    assert set(records_of(tmp_path / "out" / "again" / "dev")) == set(dev)


def test_a_hold_out_is_converted_together_with_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        write_lines(tmp_path / f"{split}.jsonl", [row(0)])
    command = ["questions", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--hold_out", "dev=0.2"]
    for splits in (["train"], ["dev"], []):
        with pytest.raises(SystemExit):
            main([*command, *(["--splits", *splits] if splits else [])])
        assert "takes images out of train: name both in --splits" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["dev", "dev=0", "dev=0.0", "dev=1.5", "train=0.1", "val=0.1", "=0.1"])
def test_a_hold_out_without_sense_is_refused(tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        write_lines(tmp_path / f"{split}.jsonl", [row(0)])
    with pytest.raises(SystemExit):
        main(["questions", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--hold_out", given])
    assert "--hold_out" in capsys.readouterr().err


def test_answers_in_lower_case_are_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row(0, "Yes"), row(1, ["yes", "YES"]), row(2, "No")])
    write_images(tmp_path / "images", "a.jpg")
    command = f"questions --src {tmp_path} --out {tmp_path}/out --splits train --lower_case true"
    main(command.split())
    (record,) = records_of(tmp_path / "out" / "questions" / "train").values()
    assert [question.answers for question in record.questions] == [("yes",), ("yes", "yes"), ("no",)]
    assert answers(tmp_path / "out") == ["yes", "no"]
