"""Visual Genome (arXiv 1602.07332): region descriptions, each mentions its region; objects give classes.

The official release has no splits: ``splits.json`` ({"train": [image ids], "val": [...]}) in the raw folder
gives them; without it every hundredth image (id % 100 == 0) is for validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.prepare.raw import Item, Order, RawDataset, clean_text, corners_of, usable_box
from datamodules.prepare.rows import (
    ANY,
    ID,
    LIST,
    WHOLE,
    Fields,
    Row,
    SkipDefect,
    check_rows,
    distinct,
    existing_file,
    is_whole,
    optional,
    read_json,
    read_rows,
)
from datamodules.records import Box, Record, Text

VAL_EVERY = 100
IMAGE: Fields = {"image_id": WHOLE, "width": ANY, "height": ANY, "coco_id": optional(WHOLE)}
LISTS: dict[str, Fields] = {
    "regions": {"region_id": ID, "phrase": ANY, "x": ANY, "y": ANY, "width": ANY, "height": ANY},
    "objects": {"x": ANY, "y": ANY, "w": ANY, "h": ANY, "names": optional(LIST)},
}


class Dataset(RawDataset):
    """``region_descriptions.json``, ``objects.json``, ``image_data.json`` and the images."""

    kind = "texts"
    stored_boxes = True  # its sizes are those of the files, whose EXIF it does not follow

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and archives that may hold the images: splits share them."""
        return ("images", "images2", "VG_100K", "VG_100K_2")

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the files of all splits, and the one that says which is which if there is one."""
        names = ("image_data.json", "region_descriptions.json", "objects.json")
        splits = self.src / "splits.json"
        return (*(existing_file(self.src / name) for name in names), *((splits,) if splits.is_file() else ()))

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a region description."""
        images_file = self.src / "image_data.json"
        images = {
            row["image_id"]: row
            for row in distinct(read_rows(images_file, None, IMAGE, skip), "image_id", images_file.name, skip)
        }
        regions = self.by_image("region_descriptions.json", "regions", skip)
        objects = self.by_image("objects.json", "objects", skip)
        for image_id in order(self.split_ids(split, sorted(images))):
            if image_id not in images:
                skip("unknown image id", f"splits.json: image {image_id} is not in {images_file}")
                continue
            record = usable_record(images[image_id], objects.get(image_id, []), regions.get(image_id, []), skip)
            if record.texts:
                yield Item(str(image_id), f"{image_id}.jpg", record)
            else:
                skip("no caption", f"{split}, image {image_id}")

    def by_image(self, name: str, key: str, skip: SkipDefect) -> dict[Any, list[Row]]:
        """Return the lists under ``key`` by image id, which some releases call "id".

        Raises:
            ValueError: A row has none of the two ids, or no such list.
        """
        path = self.src / name
        fields: Fields = {key: LIST, "image_id": optional(WHOLE), "id": optional(WHOLE)}
        lists: dict[Any, list[Row]] = {}
        for number, row in enumerate(read_rows(path, None, fields, skip)):
            image_id = row.get("image_id") if row.get("image_id") is not None else row.get("id")
            if image_id is None:
                raise ValueError(
                    f"{path}, row {number}: keys 'image_id' and 'id' are missing; is this the official file?"
                )
            where = f"{path}, image {image_id}, {key!r}"
            if image_id in lists:
                skip("id given twice", where)
            else:
                lists[image_id] = check_rows(row[key], LISTS[key], where, skip)
        return lists

    def split_ids(self, split: str, image_ids: list[int]) -> list[int]:
        """Return the image ids of a split.

        Raises:
            ValueError: There is no such split, or ``splits.json`` gives no lists of different image ids.
        """
        path = self.src / "splits.json"
        if path.is_file():
            splits = read_json(path)
        else:
            splits = {
                "train": [image_id for image_id in image_ids if image_id % VAL_EVERY],
                "val": [image_id for image_id in image_ids if not image_id % VAL_EVERY],
            }
        if not isinstance(splits, dict):
            raise ValueError(f'{path}: {{"train": [image ids], "val": [...]}} is needed')
        if split not in splits:
            raise ValueError(f"{path}: no split {split!r}, only {', '.join(splits)}; give others with --splits")
        ids = splits[split]
        if not isinstance(ids, list) or not all(map(is_whole, ids)) or len(set(ids)) < len(ids):
            raise ValueError(f"{path}, {split!r}: a list of different whole numbers is needed, the image ids")
        return ids


def usable_record(image: Row, objects: list[Row], regions: list[Row], skip: SkipDefect) -> Record:
    """Return an image's record: boxes of its objects, then of its regions; what cannot be used is counted."""
    size, where = (image["width"], image["height"]), f"image {image['image_id']}"
    boxes: list[Box] = []
    names: list[str] = []
    texts: list[Text] = []
    for row in objects:
        corners = corners_of((row["x"], row["y"], row["w"], row["h"]))
        box = usable_box(corners, size, f"{where}, object {row.get('object_id')}", skip)
        if box is not None:
            boxes.append(box)
            names.append(clean_text(next(iter(row.get("names") or ()), "")).lower())
    for row in regions:
        at = f"{where}, region {row['region_id']}"
        phrase = clean_text(row["phrase"])
        if not phrase:
            skip("empty caption", at)
            continue
        corners = corners_of((row["x"], row["y"], row["width"], row["height"]))
        box = usable_box(corners, size, at, skip)
        texts.append(Text(str(row["region_id"]), phrase, None if box is None else (len(boxes),)))
        if box is not None:
            boxes.append(box)
            names.append("")  # a region has no class
    return Record(record_id(image), tuple(boxes), tuple(names), tuple(texts))


def record_id(image: Row) -> str:
    """Return the record's image id; half of Visual Genome's images are COCO's and carry its id."""
    coco_id = image.get("coco_id")
    return f"visual_genome/{image['image_id']}" if coco_id is None else f"coco/{coco_id}"
