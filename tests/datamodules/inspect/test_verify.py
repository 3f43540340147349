"""Verification: sound shards have no problem, and whatever is damaged is named by shard, row, key and fault."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.index import Column, index_path
from datamodules.inspect.verify import Problem, Verifier
from datamodules.records import Box, Kind, Record, Statement, Text
from datamodules.shards import ShardFolder
from datamodules.writer import ShardFolderWriter
from tests.datamodules.shard_factory import make_record, picture, write_shards


def make_folder(root: Path, kind: Kind = "texts", images: dict[str, bytes] | None = None) -> Path:
    """Write five records; of texts there are two each, four in a shard: shards of 4, 4 and 2."""
    folder = root / "toy" / "train"
    write_shards(folder, kind, map(make_record, range(5)), samples_per_shard=4, images=images)
    return folder


def verify(folder: Path, quick: bool = False) -> tuple[list[Problem], list[str]]:
    """Return the problems, and the images of the records without any."""
    verifier = Verifier(folder, quick)
    records = [verified.record for verified in verifier.records()]
    boxes = sum(len(record.boxes) for record in records)
    classes = Counter(name for record in records for name in record.names if name)
    verifier.compare(len(records), boxes, classes)
    return verifier.problems, [record.image_id for record in records]


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change values of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def overwrite(folder: Path, shard: int, row: int, column: Column, data: bytes) -> None:
    """Overwrite the start of a sample's member in its tar."""
    path = folder / f"{shard:06d}.tar"
    offset = int(np.load(index_path(path))[row, column])
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def edit_index(folder: Path, shard: int, row: int, column: Column, value: int) -> None:
    """Put another number into an index, whose hash the manifest does not have (as before it was kept there)."""
    path = index_path(folder / f"{shard:06d}.tar")
    rows = np.load(path)
    rows[row, column] = value
    np.save(path, rows)
    shards = json.loads((folder / "manifest.json").read_bytes())["shards"]
    del shards[shard]["index_sha256"]
    edit_manifest(folder, shards=shards)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("kind", ["texts", "questions", "vcr"])
def test_sound_shards_have_no_problem(tmp_path: Path, kind: Kind, quick: bool) -> None:
    assert verify(make_folder(tmp_path, kind), quick) == ([], [f"toy/{number}" for number in range(5)])


def test_both_pictures_of_a_pair_are_verified(tmp_path: Path) -> None:
    with ShardFolderWriter(tmp_path, "nlvr2", "train", "statements") as writer:
        for number in range(2):
            record = Record(f"nlvr2/{number}", statements=(Statement(f"{number}", "a dog", "true", ""),))
            right = picture(9, 60, 30) if number == 0 else b"no picture"
            writer.write(f"{number}", picture(number, 40, 20), "jpg", record, (right, "jpg"))
    verifier = Verifier(tmp_path)
    assert [verified.sizes for verified in verifier.records()] == [((40, 20), (60, 30))]
    assert [(problem.row, problem.key) for problem in verifier.problems] == [(1, "nlvr2/1/1")]
    assert verifier.problems[0].what.startswith("unreadable image")


def test_one_damaged_byte_is_found_by_its_hash(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    before = ShardFolder(folder).manifest.shards[1].sha256
    path = folder / "000001.tar"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the padding: no sample sees it
    path.write_bytes(content)
    problems, images = verify(folder)
    told = f"sha256 is {hashlib.sha256(content).hexdigest()}, not {before} as the manifest says"
    assert problems == [Problem("000001.tar", None, "", told)]
    assert len(images) == 5
    assert verify(folder, quick=True) == ([], images)


def test_a_damaged_record_is_named_at_each_of_its_samples(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    overwrite(folder, 1, 2, Column.TEXT_OFFSET, b"x")  # the shard's second record, toy/3
    problems, images = verify(folder)
    assert [(problem.shard, problem.row) for problem in problems] == [
        ("000001.tar", None),
        ("000001.tar", 2),
        ("000001.tar", 3),
    ]
    assert problems[0].what.startswith("sha256")
    assert all(problem.what.startswith("bad json") for problem in problems[1:])
    assert images == ["toy/0", "toy/1", "toy/2", "toy/4"]


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, images={"toy/1": picture(1)[:700], "toy/3": b"no picture"})
    problems, images = verify(folder)
    assert [(problem.shard, problem.row, problem.key) for problem in problems] == [
        ("000000.tar", 2, "toy/1/1a"),
        ("000001.tar", 2, "toy/3/3a"),
    ]
    assert all(problem.what.startswith("unreadable image") for problem in problems)
    assert images == ["toy/0", "toy/2", "toy/4"]
    quick, _ = verify(folder, quick=True)  # the header of the first one is whole
    assert [problem.key for problem in quick] == ["toy/3/3a"]


def test_a_truncated_shard_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = folder / "000001.tar"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1000])
    problems, images = verify(folder)
    assert [(problem.shard, problem.row) for problem in problems] == [("000001.tar", None)]
    assert f"has {size - 1000:,} bytes, {size:,} in its manifest" in problems[0].what
    assert images == ["toy/0", "toy/1", "toy/4"]


@pytest.mark.parametrize("name", ["000002.tar", "000002.index.npy"])
def test_a_missing_file_is_named_and_the_other_shards_are_read(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path)
    (folder / name).unlink()
    problems, images = verify(folder)
    assert [(problem.shard, problem.row) for problem in problems] == [("000002.tar", None)]
    assert f"{name} not found" in problems[0].what
    assert images == ["toy/0", "toy/1", "toy/2", "toy/3"]


def test_each_of_several_damaged_shards_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "000000.tar").unlink()
    (folder / "000001.index.npy").write_bytes(b"")
    (folder / "000002.tar").write_bytes(b"")
    problems, images = verify(folder)
    assert [problem.shard for problem in problems] == ["000000.tar", "000001.tar", "000002.tar"]
    assert images == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": 6}, ["images is 6, but the shards hold 5"]),
        ({"samples": 11}, ["samples is 11, but its shards have 10"]),
        ({"boxes": 14}, ["boxes is 14, but the shards hold 15"]),
        (
            {"classes": {"person": 4, "cat": 1}},
            [
                "classes has 0 boxes of 'blue cross', but the shards hold 1",
                "classes has 1 boxes of 'cat', but the shards hold 0",
                "classes has 0 boxes of 'green square', but the shards hold 1",
                "classes has 4 boxes of 'person', but the shards hold 5",
                "classes has 0 boxes of 'red circle', but the shards hold 1",
                "classes has 0 boxes of 'red square', but the shards hold 1",
                "classes has 0 boxes of 'yellow circle', but the shards hold 1",
            ],
        ),
    ],
)
def test_wrong_counts_of_the_manifest_are_named(tmp_path: Path, changes: dict[str, object], told: list[str]) -> None:
    folder = make_folder(tmp_path)
    edit_manifest(folder, **changes)
    problems, _ = verify(folder)
    assert [str(problem) for problem in problems] == [f"manifest.json: {line}" for line in told]


def test_a_wrong_number_of_samples_in_a_shard_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    shards = json.loads((folder / "manifest.json").read_bytes())["shards"]
    shards[0]["samples"] = 3
    edit_manifest(folder, shards=shards)
    problems, images = verify(folder)
    assert [problem.shard for problem in problems] == ["000000.tar", ""]
    assert "000000.index.npy has shape (4, 9), not (3, 9)" in problems[0].what
    assert problems[1].what == "samples is 10, but its shards have 9"
    assert images == ["toy/2", "toy/3", "toy/4"]


@pytest.mark.parametrize(
    ("row", "column", "value", "key", "told"),
    [
        (1, Column.ITEM, 0, "", "wrong index: it is not in the order of the shard's records"),
        (2, Column.ITEM, 1, "toy/1/1b", "wrong index: sample 1 of a record, without the first"),
        (2, Column.ITEM, 7, "", "wrong index: "),
        (3, Column.IMAGE, 5, "toy/1/1a", "wrong index: the number of another image"),
        (0, Column.TEXT_BYTES, -1, "", "wrong index: "),
        (0, Column.IMAGE_OFFSET, -1, "", "wrong index: "),
        (0, Column.IMAGE_BYTES, 2**62, "", "wrong index: "),
        (3, Column.TEXT_OFFSET, 10**9, "", "wrong index: the index leads to byte 1000000000"),
    ],
)
def test_a_wrong_index_is_named(tmp_path: Path, row: int, column: Column, value: int, key: str, told: str) -> None:
    folder = make_folder(tmp_path)
    edit_index(folder, 0, row, column, value)
    problems, _ = verify(folder)
    first = problems[0]
    assert (first.shard, first.row, first.key) == ("000000.tar", row, key)
    assert first.what.startswith(told)


def test_an_index_that_ends_within_a_record_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    index = index_path(folder / "000002.tar")
    np.save(index, np.load(index)[:1])
    shards = json.loads((folder / "manifest.json").read_bytes())["shards"]
    shards[2]["samples"] = 1
    del shards[2]["index_sha256"]
    edit_manifest(folder, shards=shards, samples=9)
    problems, _ = verify(folder)
    assert [str(problem) for problem in problems] == [
        "000002.tar, sample 0, toy/4/4a: wrong index: the record has 2 texts, but only 1 rows are left"
    ]


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5, 0.9), (-0.1, 0.0, 0.5, 0.5), (0.0, 0.0, 1.01, 1.0)])
def test_a_bad_box_is_named(tmp_path: Path, box: Box) -> None:
    record = dataclasses.replace(make_record(0), boxes=(*make_record(0).boxes[:2], box))
    write_shards(tmp_path / "toy" / "train", "texts", [record])
    problems, images = verify(tmp_path / "toy" / "train")
    assert [(problem.row, problem.key) for problem in problems] == [(0, "toy/0/0a")]
    assert problems[0].what.startswith("bad box")
    assert "box 2 is" in problems[0].what
    assert images == []


def test_faulty_texts_are_named_with_their_row(tmp_path: Path) -> None:
    texts = (Text("a", "fine", (2,)), Text("b", " ", None), Text("c", "too far", (1, 3)))
    write_shards(tmp_path / "toy" / "train", "texts", [dataclasses.replace(make_record(0), texts=texts)])
    problems, _ = verify(tmp_path / "toy" / "train")
    assert [(problem.row, problem.what) for problem in problems] == [
        (1, "empty text: its text"),
        (2, "bad mention: objects [3], but there are 3 boxes"),
    ]
    assert [problem.key for problem in problems] == ["toy/0/b", "toy/0/c"]


def test_faulty_questions_about_tagged_objects_are_named(tmp_path: Path) -> None:
    record = make_record(0)
    item = record.vcr[0]
    items = (
        dataclasses.replace(item, answer_label=4),
        dataclasses.replace(item, rationale_choices=item.rationale_choices[:3], rationale_label=None),
        dataclasses.replace(item, question=("is", (0, 9), "?")),
        dataclasses.replace(item, answer_choices=((),) * 4, answer_label=None),
    )
    write_shards(tmp_path / "toy" / "train", "vcr", [dataclasses.replace(record, vcr=items)])
    problems, _ = verify(tmp_path / "toy" / "train")
    assert [(problem.row, problem.what) for problem in problems] == [
        (0, "bad choices: 4 answers, label 4; 4 are needed"),
        (1, "bad choices: 3 rationales, label None; 4 are needed"),
        (2, "bad mention: objects [9], but there are 3 boxes"),
        *[(3, "empty text: its answer choice")] * 4,
    ]


def test_a_value_of_the_wrong_type_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    sample = ShardFolder(folder).read(0, 0)
    text = sample.record.to_json()
    wrong = text.replace(b'"small red circle"', b"null             ").ljust(len(text))
    assert wrong != text
    overwrite(folder, 0, 0, Column.TEXT_OFFSET, wrong)
    problems, images = verify(folder, quick=True)
    assert [(problem.row, problem.key) for problem in problems] == [(0, ""), (1, "")]
    assert problems[0].what == "bad json: text is None, not a text"
    assert images == ["toy/1", "toy/2", "toy/3", "toy/4"]
