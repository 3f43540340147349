"""NLVR2: a record is a pair of photos with all its sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import records_of, skipped, write_images, write_lines

TRAIN, DEV = Options(splits=("train",)), Options(splits=("dev",))


def row(identifier: str, label: str = "True", **changes: object) -> dict[str, Any]:
    """Return a sentence about a pair."""
    return {
        "identifier": identifier,
        "sentence": f"Sentence {identifier[-1]}.",
        "label": label,
        "left_url": "https://example.org/a.png",
        "right_url": "https://example.org/b.png",
        "synset": "acorn",
        "query": "acorns6",
        **changes,
    }


def write_pairs(folder: Path, *pairs: str) -> None:
    """Write both photos of each pair."""
    write_images(folder, *(f"{pair}-img{side}.png" for pair in pairs for side in (0, 1)))


def test_a_pair_has_one_record_with_both_photos(tmp_path: Path) -> None:
    rows = [row("dev-850-0-0"), row("dev-850-0-1", "False"), row("dev-850-1-0", "False"), row("dev-9-3-1")]
    write_lines(tmp_path / "dev.json", rows)
    write_pairs(tmp_path / "dev", "dev-850-0", "dev-850-1", "dev-9-3")
    convert("nlvr2", tmp_path, tmp_path / "out", DEV)
    records = records_of(tmp_path / "out" / "nlvr2" / "dev")
    assert set(records) == {"nlvr2/dev-850-0", "nlvr2/dev-850-1", "nlvr2/dev-9-3"}
    assert [vars(statement) for statement in records["nlvr2/dev-850-0"].statements] == [
        {"id": "dev-850-0-0", "text": "Sentence 0.", "label": "true", "group": "dev-850-0"},
        {"id": "dev-850-0-1", "text": "Sentence 1.", "label": "false", "group": "dev-850-1"},
    ]
    assert records["nlvr2/dev-850-1"].statements[0].group == "dev-850-0"
    folder = ShardFolder(tmp_path / "out" / "nlvr2" / "dev")
    for number in range(len(folder)):
        sample = folder.read(0, number)
        pair = tmp_path / "dev" / sample.record.image_id.removeprefix("nlvr2/")
        assert sample.image == pair.with_name(f"{pair.name}-img0.png").read_bytes()
        assert sample.right == pair.with_name(f"{pair.name}-img1.png").read_bytes()


def test_photos_of_training_lie_in_numbered_folders(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.json", [row("train-1-0-0", directory=38), row("train-1-1-0", directory="7")])
    write_pairs(tmp_path / "images" / "train" / "38", "train-1-0")
    write_pairs(tmp_path / "images" / "train" / "7", "train-1-1")
    convert("nlvr2", tmp_path, tmp_path / "out", TRAIN)
    folder = tmp_path / "out" / "nlvr2" / "train"
    assert set(records_of(folder)) == {"nlvr2/train-1-0", "nlvr2/train-1-1"}
    assert skipped(folder) == {}


@pytest.mark.parametrize(
    "place", ["balanced_dev.json", "balanced/balanced_dev.json", "data/balanced/balanced_dev.json"]
)
def test_the_balanced_part_is_a_split_with_the_same_photos(tmp_path: Path, place: str) -> None:
    write_lines(tmp_path / place, [row("dev-850-0-0")])
    write_pairs(tmp_path / "dev", "dev-850-0")
    convert("nlvr2", tmp_path, tmp_path / "out", Options(splits=("balanced_dev",)))
    assert set(records_of(tmp_path / "out" / "nlvr2" / "balanced_dev")) == {"nlvr2/dev-850-0"}


def test_a_pair_with_one_photo_is_left_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "dev.json", [row(f"dev-1-{pair}-0") for pair in range(3)])
    write_pairs(tmp_path / "dev", "dev-1-0", "dev-1-1", "dev-1-2")
    (tmp_path / "dev" / "dev-1-0-img0.png").unlink()
    (tmp_path / "dev" / "dev-1-2-img1.png").unlink()
    convert("nlvr2", tmp_path, tmp_path / "out", DEV)
    folder = tmp_path / "out" / "nlvr2" / "dev"
    assert set(records_of(folder)) == {"nlvr2/dev-1-1"}
    assert skipped(folder) == {"missing image": 2}


def test_defects_are_counted(tmp_path: Path) -> None:
    rows = [
        row("dev-1-0-0"),
        row("dev-1-0-0"),
        row("dev-1-0-1", "Maybe"),
        row("dev-1-0-2", sentence=None),
        row("dev-1-0"),
        row("dev-1-0-3", directory=[3]),
        {key: value for key, value in row("dev-1-0-4").items() if key != "label"},
    ]
    write_lines(tmp_path / "dev.json", rows)
    write_pairs(tmp_path / "dev", "dev-1-0")
    convert("nlvr2", tmp_path, tmp_path / "out", DEV)
    folder = tmp_path / "out" / "nlvr2" / "dev"
    (record,) = records_of(folder).values()
    assert [(statement.id, statement.label) for statement in record.statements] == [
        ("dev-1-0-0", "true"),
        ("dev-1-0-4", None),
    ]
    assert skipped(folder) == {
        "id given twice": 1,
        "unknown label": 1,
        "empty statement": 1,
        "field of a wrong type": 2,
    }
