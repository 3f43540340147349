"""COCO captions and instances (arXiv 1504.00325, 1405.0312): captions with the boxes that they mention.

A caption mentions a box if the name of the box's class, its plural or a listed synonym stands in it. Longer
names win, so that "hot dog" mentions no dog. A caption annotation may itself say what it mentions
("mentions": annotation ids), as those of the embedded world do; then that counts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.prepare.raw import Item, Order, RawDataset, clean_text, corners_of, tar_key, usable_box
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    ID,
    Fields,
    Row,
    SkipDefect,
    distinct,
    existing_file,
    first_existing,
    group,
    read_rows,
    sorted_ids,
)
from datamodules.prepare.synonyms import SYNONYMS
from datamodules.records import Box, Record, Text

YEARS = ("2017", "2014", "")  # of the annotation files' names; the first that is there
IMAGE: Fields = {"id": ID, "file_name": FILE_NAME, "width": ANY, "height": ANY}
CAPTION: Fields = {"id": ID, "image_id": ID, "caption": ANY}
OBJECT: Fields = {"id": ID, "image_id": ID, "category_id": ID, "bbox": ANY}
CLASS: Fields = {"id": ID, "name": ANY}


class Dataset(RawDataset):
    """``annotations/{captions,instances}_SPLIT*.json`` and ``images/``, ``SPLIT2017/`` or ``images.tar``."""

    kind = "texts"
    stored_boxes = True  # its sizes are those of the files, whose EXIF it does not follow

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and archives that may hold the images."""
        return ("images", *(f"{split}{year}" for year in YEARS))

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's captions and instances."""
        captions = first_existing(self.src / "annotations", [f"captions_{split}{year}.json" for year in YEARS])
        return captions, existing_file(captions.with_name(captions.name.replace("captions_", "instances_")))

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a caption."""
        captions_file, instances_file = self.annotation_files(split)
        images = {
            row["id"]: row for path in (instances_file, captions_file) for row in read_rows(path, "images", IMAGE, skip)
        }
        captions = annotations_by_image(captions_file, CAPTION, skip)
        boxes = annotations_by_image(instances_file, OBJECT, skip)
        names = {row["id"]: clean_text(row["name"]) for row in read_rows(instances_file, "categories", CLASS, skip)}
        for image_id in sorted_ids((captions.keys() | boxes.keys()) - images.keys()):
            skip(
                "unknown image id",
                f"{captions_file.name} or {instances_file.name}: image {image_id} is not listed",
            )
        rule = MentionRule(names.values())
        for image_id in order(sorted_ids(images)):
            image, where = images[image_id], f"{split}, image {image_id}"
            objects = usable_objects(image, boxes.get(image_id, []), names, where, skip)
            texts = usable_captions(captions.get(image_id, []), objects, rule, where, skip)
            if not texts:
                skip("no caption", where)
                continue
            record = Record(
                image_id=f"coco/{image_id}",
                boxes=tuple(box for _, _, box in objects),
                names=tuple(name for _, name, _ in objects),
                texts=tuple(texts),
            )
            yield Item(tar_key(Path(image["file_name"]).name), image["file_name"], record)


def annotations_by_image(path: Path, fields: Fields, skip: SkipDefect) -> dict[Any, list[Row]]:
    """Return the annotations of a file by image id; those with an id that is there already are counted."""
    return group(distinct(read_rows(path, "annotations", fields, skip), "id", path.name, skip), "image_id")


def usable_objects(
    image: Row, annotations: Iterable[Row], names: dict[Any, str], where: str, skip: SkipDefect
) -> list[tuple[Any, str, Box]]:
    """Return annotation id, class name and box of each object of an image; the others are counted."""
    objects = []
    for row in annotations:
        at = f"{where}, annotation {row['id']}"
        if row.get("iscrowd"):
            skip("crowd box", at)  # it frames a whole group
        elif row["category_id"] not in names:
            skip("unknown class id", f"{at}: category {row['category_id']}")
        else:
            size = (image["width"], image["height"])
            box = usable_box(corners_of(row["bbox"]), size, at, skip)
            if box is not None:
                objects.append((row["id"], names[row["category_id"]], box))
    return objects


def usable_captions(
    annotations: Iterable[Row],
    objects: list[tuple[Any, str, Box]],
    rule: MentionRule,
    where: str,
    skip: SkipDefect,
) -> list[Text]:
    """Return an image's captions with the numbers of the boxes that they mention; empty ones are counted."""
    texts = []
    for row in annotations:
        caption = clean_text(row["caption"])
        if not caption:
            skip("empty caption", f"{where}, annotation {row['id']}")
            continue
        if "mentions" in row:
            given = row["mentions"] if isinstance(row["mentions"], list) else []
            if given is not row["mentions"]:
                skip("mentions that are no list", f"{where}, annotation {row['id']}")
            mentioned = [number for number, (id_, _, _) in enumerate(objects) if id_ in given]
        else:
            classes = rule.classes_in(caption)
            mentioned = [number for number, (_, name, _) in enumerate(objects) if name in classes]
        texts.append(Text(str(row["id"]), caption, tuple(mentioned) or None))
    return texts


class MentionRule:
    """Finds the classes that a caption names."""

    def __init__(self, names: Iterable[str]) -> None:
        """Collect each class's words: its name and synonyms, and the plurals of both."""
        self.classes: dict[str, set[str]] = defaultdict(set)  # by phrase; "glasses" may be two classes'
        for name in names:
            for noun in (name.lower(), *SYNONYMS.get(name, ())):
                self.classes[noun].add(name)
                self.classes[plural(noun)].add(name)
        # At each place the longest phrase is taken, and what it covers is read no second time.
        phrases = sorted(self.classes, key=lambda phrase: (-len(phrase), phrase))
        self.pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, phrases))})\b")

    def classes_in(self, caption: str) -> set[str]:
        """Return the names of the classes that stand in a caption, in any case."""
        return {name for phrase in self.pattern.findall(caption.lower()) for name in self.classes[phrase]}


def plural(noun: str) -> str:
    """Return the regular plural of a noun or of the last word of a phrase."""
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}s"
