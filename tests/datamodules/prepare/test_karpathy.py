"""Karpathy's files: captions as people wrote them, in his splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import real_folder, records_of, skipped, write_images, write_json

TRAIN = Options(splits=("train",))


def image(number: int, split: str = "train", **changes: object) -> dict[str, Any]:
    """Return an image with two captions."""
    return {
        "filename": f"{number}_ab.jpg",
        "imgid": number,
        "split": split,
        "sentids": [2 * number, 2 * number + 1],
        "sentences": [
            {"raw": f"Caption {i} .", "tokens": [], "imgid": number, "sentid": 2 * number + i} for i in (0, 1)
        ],
        **changes,
    }


def write_karpathy(src: Path, name: str, folder: str, images: list[dict[str, Any]]) -> None:
    """Write the file and its images."""
    write_json(src / f"dataset_{name}.json", {"dataset": name, "images": images})
    write_images(src / folder, *(str(row["filename"]) for row in images if isinstance(row["filename"], str)))


@pytest.mark.parametrize(("name", "folder"), [("flickr30k", "flickr30k-images"), ("flickr8k", "Flicker8k_Dataset")])
def test_splits_and_captions_are_the_files(tmp_path: Path, name: str, folder: str) -> None:
    write_karpathy(tmp_path, name, folder, [image(1), image(2), image(3, "val"), image(4, "test")])
    convert(name, tmp_path, tmp_path / "out", Options(splits=("train", "val", "test")))
    found = {split: records_of(tmp_path / "out" / name / split) for split in ("train", "val", "test")}
    assert [set(records) for records in found.values()] == [
        {f"{name}/1_ab", f"{name}/2_ab"},
        {f"{name}/3_ab"},
        {f"{name}/4_ab"},
    ]
    texts = found["val"][f"{name}/3_ab"].texts
    assert [(text.id, text.text, text.boxes) for text in texts] == [
        ("6", "Caption 0 .", None),
        ("7", "Caption 1 .", None),
    ]


def test_coco_trains_on_restval_unless_told_otherwise(tmp_path: Path) -> None:
    images = [
        image(1, filename="COCO_train2014_000000000011.jpg", filepath="train2014", cocoid=11),
        image(2, "restval", filename="COCO_val2014_000000000012.jpg", filepath="val2014", cocoid=12),
        image(3, "val", filename="COCO_val2014_000000000013.jpg", filepath="val2014", cocoid=13),
    ]
    write_json(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": images})
    for row in images:
        write_images(tmp_path / str(row["filepath"]), str(row["filename"]))
    arguments = ["coco_karpathy", "--src", str(tmp_path), "--out"]
    main([*arguments, str(tmp_path / "out")])
    main([*arguments, str(tmp_path / "less"), "--restval", "false"])
    assert set(records_of(tmp_path / "out" / "coco_karpathy" / "train")) == {"coco/11", "coco/12"}
    assert set(records_of(tmp_path / "less" / "coco_karpathy" / "train")) == {"coco/11"}
    assert set(records_of(tmp_path / "out" / "coco_karpathy" / "val")) == {"coco/13"}


def test_defects_are_counted(tmp_path: Path) -> None:
    images = [
        image(1),
        image(1),
        image(2, filename=["a.jpg"]),
        image(3, "dev"),
        image(4, sentences=[]),
        image(5, sentences=[{"raw": " ", "sentid": 1}, {"raw": "a", "sentid": 2}, {"raw": "b", "sentid": 2}]),
        image(6, sentences="a dog"),
    ]
    write_karpathy(tmp_path, "flickr8k", "images", images)
    convert("flickr8k", tmp_path, tmp_path / "out", TRAIN)
    folder = tmp_path / "out" / "flickr8k" / "train"
    assert skipped(folder) == {
        "id given twice": 2,
        "field of a wrong type": 2,
        "unknown split": 1,
        "no caption": 1,
        "empty caption": 1,
    }
    assert ShardFolder(folder).manifest.samples == 3


def test_a_missing_file_and_an_unknown_split_are_named(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"dataset_flickr30k\.json not found"):
        convert("flickr30k", tmp_path, tmp_path / "out", TRAIN)
    write_karpathy(tmp_path, "flickr30k", "images", [image(1)])
    with pytest.raises(ValueError, match="flickr30k has no split 'dev', only train, val, test"):
        convert("flickr30k", tmp_path, tmp_path / "out", Options(splits=("dev",)))


def test_the_real_photos_are_counted_exactly(tmp_path: Path) -> None:
    src = real_folder("flickr8k")
    images = json.loads((src / "dataset_flickr8k.json").read_text())["images"]
    convert("flickr8k", src, tmp_path, Options(splits=("train", "val"), workers=1))
    for split in ("train", "val"):
        rows = [row for row in images if row["split"] == split]
        manifest = ShardFolder(tmp_path / "flickr8k" / split).manifest
        assert (manifest.images, manifest.samples) == (len(rows), sum(len(row["sentences"]) for row in rows))
        assert manifest.skipped == {}
    written = {f"{t.id} {t.text}" for r in records_of(tmp_path / "flickr8k" / "val").values() for t in r.texts}
    raw = [s for row in images if row["split"] == "val" for s in row["sentences"]]
    assert written == {f"{s['sentid']} {' '.join(s['raw'].split())}" for s in raw}
