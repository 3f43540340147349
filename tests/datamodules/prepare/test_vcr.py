"""VCR: tags keep pointing at the right boxes, and questions that cannot be asked are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import records_of, write_images, write_json

TRAIN = Options(splits=("train",))
IMAGE = "film_01/shot@1.5.jpg"  # VCR's names hold dots and signs


def row(number: int, **changes: object) -> dict[str, Any]:
    """Return a question about objects 0 and 2 of three."""
    choices = [["Because", [0], "is", "red", "."], ["No", "."], ["Yes", "."], [[0, 2], "are", "."]]
    return {
        "img_fn": IMAGE,
        "metadata_fn": IMAGE.replace(".jpg", ".json"),
        "objects": ["person", "dog", "cup"],
        "question": ["Why", "is", [2], "here", "?"],
        "answer_choices": choices,
        "rationale_choices": choices[::-1],
        "answer_label": 3,
        "rationale_label": 0,
        "annot_id": f"train-{number}",
        "question_number": number,
        **changes,
    }


def write_vcr(src: Path, rows: list[dict[str, Any]], boxes: list[Any] | None = None) -> None:
    """Write the rows as training split, and one image of 40 x 20 with three objects."""
    (src / "train.jsonl").write_text("".join(json.dumps(content) + "\n" for content in rows))
    boxes = boxes or [[0, 0, 10, 10, 0.9], [10, 0, 20, 10, 0.8], [20, 10, 40, 20, 0.7]]
    content = {"boxes": boxes, "names": ["person", "dog", "cup"], "width": 40, "height": 20}
    write_json(src / "vcr1images" / IMAGE.replace(".jpg", ".json"), content)
    write_images(src / "vcr1images", IMAGE)


def skipped(tmp_path: Path) -> dict[str, int]:
    """Return what the conversion left out."""
    return ShardFolder(tmp_path / "out" / "vcr" / "train").manifest.skipped


def test_an_image_has_one_record_with_all_its_questions(tmp_path: Path) -> None:
    write_vcr(tmp_path, [row(0), row(1, family="colour", answer_label=None, rationale_label=None)])
    convert("vcr", tmp_path, tmp_path / "out", TRAIN)
    record = records_of(tmp_path / "out" / "vcr" / "train")["vcr/film_01/shot@1.5"]
    assert record.names == ("person", "dog", "cup")
    assert record.boxes[2] == (0.5, 0.5, 1.0, 1.0)
    first, second = record.vcr
    assert first.question == ("Why", "is", (2,), "here", "?")
    assert first.answer_choices[3] == first.rationale_choices[0] == ((0, 2), "are", ".")
    assert (first.id, first.answer_label, first.rationale_label, first.family) == ("train-0", 3, 0, "")
    assert (second.answer_label, second.rationale_label, second.family) == (None, None, "colour")


def test_tags_follow_the_boxes_that_are_left(tmp_path: Path) -> None:
    boxes = [[0, 0, 10, 10, 0.9], [10, 0, 10, 10, 0.8], [20, 10, 40, 20, 0.7]]
    write_vcr(
        tmp_path,
        [row(0), row(1, question=["Is", [1], "here", "?"]), row(2, question=["Is", [7], "?"])],
        boxes,
    )
    convert("vcr", tmp_path, tmp_path / "out", TRAIN)
    (record,) = records_of(tmp_path / "out" / "vcr" / "train").values()
    assert record.names == ("person", "cup")
    assert [item.question for item in record.vcr] == [("Why", "is", (1,), "here", "?")]
    assert record.vcr[0].answer_choices[3] == ((0, 1), "are", ".")
    assert skipped(tmp_path) == {"box of zero area": 1, "tag without a box": 2}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"answer_label": 4}, "label out of range"),
        ({"rationale_label": -1}, "label out of range"),
        ({"answer_choices": [["a"]] * 3}, "not four choices"),
        ({"question": []}, "empty question"),
        ({"question": [" "]}, "empty question"),
        ({"question": "Why is he here?"}, "field of a wrong type"),
        ({"answer_choices": None}, "field of a wrong type"),
        ({"answer_choices": ["a", "b", "c", "d"]}, "field of a wrong type"),
        ({"answer_label": "3"}, "field of a wrong type"),
        ({"annot_id": [1]}, "field of a wrong type"),
        ({"annot_id": "train-0"}, "id given twice"),
        ({"objects": ["person"]}, "objects differ from the metadata"),
        ({"img_fn": "other.jpg", "metadata_fn": "other.json"}, "missing metadata"),
        ({"img_fn": "other.jpg"}, "missing image"),
    ],
)
def test_a_bad_question_is_counted(tmp_path: Path, changes: dict[str, Any], kind: str) -> None:
    write_vcr(tmp_path, [row(0), row(1, **changes)])
    convert("vcr", tmp_path, tmp_path / "out", TRAIN)
    assert skipped(tmp_path) == {kind: 1}


def test_boxes_need_four_numbers_and_may_have_a_score(tmp_path: Path) -> None:
    boxes: list[Any] = [[0, 0, 10, 10], [10, 0, 20], None]
    write_vcr(
        tmp_path,
        [row(0, question=["Who", "is", [0], "?"], answer_choices=[["a"]] * 4, rationale_choices=[["a"]] * 4)],
        boxes,
    )
    convert("vcr", tmp_path, tmp_path / "out", TRAIN)
    (record,) = records_of(tmp_path / "out" / "vcr" / "train").values()
    assert record.boxes == ((0.0, 0.0, 0.25, 0.5),)
    assert skipped(tmp_path) == {"box without numbers": 2}


def test_bad_lines_and_metadata_are_counted(tmp_path: Path) -> None:
    write_vcr(
        tmp_path,
        [row(0), row(1, img_fn="b.jpg", metadata_fn="b.json"), row(2, img_fn="c.jpg", metadata_fn="c.json")],
    )
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"img_fn": "cut off')
    (tmp_path / "vcr1images" / "b.json").write_text("{")
    content = {"boxes": [[0, 0, 1, 1]], "names": [], "width": 40, "height": 20}
    write_json(tmp_path / "vcr1images" / "c.json", content)
    convert("vcr", tmp_path, tmp_path / "out", TRAIN)
    assert skipped(tmp_path) == {"bad json": 2, "boxes without names": 1}


def test_a_line_in_another_layout_is_an_error(tmp_path: Path) -> None:
    write_vcr(tmp_path, [row(0)])
    (tmp_path / "train.jsonl").write_text('{"question": "what?"}\n')
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: keys \['annot_id'"):
        convert("vcr", tmp_path, tmp_path / "out", TRAIN)
