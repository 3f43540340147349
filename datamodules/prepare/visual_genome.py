"""Visual Genome (arXiv 1602.07332): region descriptions, each mentions its region; objects give classes.

The official release has no splits: ``splits.json`` ({"train": [image ids], "val": [...]}) in the raw folder
gives them; without it every hundredth image (id % 100 == 0) is for validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datamodules.prepare.raw import (
    Item,
    Order,
    RawDataset,
    Row,
    SkipDefect,
    check_rows,
    clean_text,
    corners_of,
    read_json,
    read_rows,
    usable_box,
)
from datamodules.records import Box, Record, Text

VAL_EVERY = 100


class Dataset(RawDataset):
    """``region_descriptions.json``, ``objects.json``, ``image_data.json`` and the images."""

    kind = "texts"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders that may hold the images: splits share them."""
        return ("images", "VG_100K", "VG_100K_2", "images.tar")

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a region description."""
        images_file = self.src / "image_data.json"
        images = {row["image_id"]: row for row in read_rows(images_file, None, ("image_id", "width", "height"))}
        regions = self.by_image("region_descriptions.json", "regions")
        objects = self.by_image("objects.json", "objects")
        for image_id in order(self.split_ids(split, sorted(images))):
            if image_id not in images:
                skip("unknown image id", f"splits.json: image {image_id} is not in {images_file}")
                continue
            record = usable_record(images[image_id], objects.get(image_id, []), regions.get(image_id, []), skip)
            if record.texts:
                yield Item(str(image_id), f"{image_id}.jpg", record)
            else:
                skip("no caption", f"{split}, image {image_id}")

    def by_image(self, name: str, key: str) -> dict[Any, list[Row]]:
        """Return the lists under ``key`` by image id, which some releases call "id"."""
        path = self.src / name
        rows = read_rows(path, None, (key,))
        fields = {
            "regions": ("region_id", "phrase", "x", "y", "width", "height"),
            "objects": ("x", "y", "w", "h"),
        }[key]
        lists = {}
        for number, row in enumerate(rows):
            image_id = row.get("image_id", row.get("id"))
            if image_id is None:
                raise ValueError(
                    f"{path}, row {number}: keys 'image_id' and 'id' are missing; is this the official file?"
                )
            lists[image_id] = check_rows(row[key], fields, f"{path}, image {image_id}, {key!r}")
        return lists

    def split_ids(self, split: str, image_ids: list[int]) -> list[int]:
        """Return the image ids of a split.

        Raises:
            ValueError: There is no such split.
        """
        path = self.src / "splits.json"
        if path.is_file():
            splits = read_json(path)
        else:
            splits = {
                "train": [image_id for image_id in image_ids if image_id % VAL_EVERY],
                "val": [image_id for image_id in image_ids if not image_id % VAL_EVERY],
            }
        if split not in splits:
            raise ValueError(f"{path}: no split {split!r}, only {', '.join(splits)}; give others with --splits")
        return list(splits[split])


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
