"""Visual Genome: a region's phrase mentions the region's box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import records_of, skipped, write_images, write_json

TRAIN = Options(splits=("train",))


def region(number: int, **changes: object) -> dict[str, Any]:
    """Return a region of the lower right quarter of an image of 40 x 20."""
    return {
        "region_id": number,
        "x": 20,
        "y": 10,
        "width": 20,
        "height": 10,
        "phrase": f"phrase {number}",
        **changes,
    }


def write_visual_genome(src: Path, regions: dict[int, list[dict[str, Any]]], id_key: str = "id") -> None:
    """Write images with their regions, and one object each."""
    images = [{"image_id": i, "width": 40, "height": 20, "coco_id": 7 if i == 2 else None} for i in regions]
    objects = {"object_id": 5, "x": 0, "y": 0, "w": 10, "h": 10, "names": ["Dog ", "animal"]}
    write_json(src / "image_data.json", images)
    write_json(src / "region_descriptions.json", [{id_key: i, "regions": rows} for i, rows in regions.items()])
    write_json(src / "objects.json", [{"image_id": i, "objects": [objects]} for i in regions])
    write_images(src / "VG_100K", *(f"{i}.jpg" for i in regions if i % 2))
    write_images(src / "VG_100K_2", *(f"{i}.jpg" for i in regions if not i % 2))


@pytest.mark.parametrize("id_key", ["id", "image_id"])
def test_objects_then_regions(tmp_path: Path, id_key: str) -> None:
    write_visual_genome(tmp_path, {1: [region(10), region(11)], 2: [region(12)], 100: [region(13)]}, id_key)
    convert("visual_genome", tmp_path, tmp_path / "out")
    records = records_of(tmp_path / "out" / "visual_genome" / "train")
    assert set(records) == {"visual_genome/1", "coco/7"}
    record = records["visual_genome/1"]
    assert record.boxes == ((0.0, 0.0, 0.25, 0.5), (0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 1.0, 1.0))
    assert record.names == ("dog", "", "")
    assert [(text.id, text.text, text.boxes) for text in record.texts] == [
        ("10", "phrase 10", (1,)),
        ("11", "phrase 11", (2,)),
    ]
    assert set(records_of(tmp_path / "out" / "visual_genome" / "val")) == {"visual_genome/100"}
    assert ShardFolder(tmp_path / "out" / "visual_genome" / "train").manifest.classes == {"dog": 2}


def test_given_splits_win(tmp_path: Path) -> None:
    write_visual_genome(tmp_path, {1: [region(10)], 3: [region(11)], 100: [region(13)]})
    write_json(tmp_path / "splits.json", {"train": [100, 1, 55], "val": [3]})
    convert("visual_genome", tmp_path, tmp_path / "out")
    folder = tmp_path / "out" / "visual_genome"
    assert set(records_of(folder / "train")) == {"visual_genome/1", "visual_genome/100"}
    assert ShardFolder(folder / "train").manifest.skipped == {"unknown image id": 1}
    with pytest.raises(ValueError, match=r"no split 'test', only train, val"):
        convert("visual_genome", tmp_path, tmp_path / "out", Options(splits=("test",)))


def test_a_region_with_a_bad_box_keeps_its_phrase(tmp_path: Path) -> None:
    rows = [region(10, width=0), region(11, x=50), region(12, phrase=" "), region(13)]
    write_visual_genome(tmp_path, {1: rows, 3: []})
    convert("visual_genome", tmp_path, tmp_path / "out", TRAIN)
    folder = tmp_path / "out" / "visual_genome" / "train"
    assert [text.boxes for text in records_of(folder)["visual_genome/1"].texts] == [None, None, (1,)]
    assert ShardFolder(folder).manifest.skipped == {
        "box of zero area": 1,
        "box outside the image": 1,
        "empty caption": 1,
        "no caption": 1,
    }


def test_rows_of_wrong_types_are_counted(tmp_path: Path) -> None:
    write_visual_genome(tmp_path, {1: [region(10, region_id=None), region(11, x="0"), region(12)], 3: [region(13)]})
    objects = [{"x": 0, "y": 0, "w": 10, "h": 10, "names": names} for names in ("dog", None, [5])]
    images = [{"image_id": 1, "width": 40, "height": 20}, {"image_id": [3], "width": 40, "height": 20}]
    write_json(tmp_path / "objects.json", [{"image_id": 1, "objects": objects}, {"image_id": 1, "objects": []}])
    write_json(tmp_path / "image_data.json", images)
    convert("visual_genome", tmp_path, tmp_path / "out", TRAIN)
    folder = tmp_path / "out" / "visual_genome" / "train"
    (record,) = records_of(folder).values()
    assert record.names == ("", "", "")
    assert [(text.id, text.boxes) for text in record.texts] == [("11", None), ("12", (2,))]
    assert skipped(folder) == {"field of a wrong type": 3, "box without numbers": 1, "id given twice": 1}


@pytest.mark.parametrize("splits", [[1], {"train": 3}, {"train": [[1]]}, {"train": [1, 1]}])
def test_splits_that_are_no_lists_of_ids_are_named(tmp_path: Path, splits: object) -> None:
    write_visual_genome(tmp_path, {1: [region(10)]})
    write_json(tmp_path / "splits.json", splits)
    with pytest.raises(ValueError, match=r"splits\.json"):
        convert("visual_genome", tmp_path, tmp_path / "out", TRAIN)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    write_visual_genome(tmp_path, {1: [{"region_id": 3}]})
    with pytest.raises(
        ValueError, match=r"region_descriptions.json, image 1, 'regions', row 0: keys \['height', 'phrase'"
    ):
        convert("visual_genome", tmp_path, tmp_path / "out", TRAIN)
    write_visual_genome(tmp_path, {1: [region(1)]}, id_key="number")
    with pytest.raises(ValueError, match=r"region_descriptions.json, row 0: keys 'image_id' and 'id' are missing"):
        convert("visual_genome", tmp_path, tmp_path / "out", TRAIN)
