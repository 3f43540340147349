"""VCR (arXiv 1811.10830): questions about tagged objects, four answers and four rationales each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from datamodules.prepare.raw import (
    Item,
    Order,
    RawDataset,
    Row,
    SkipDefect,
    check_rows,
    clean_text,
    group,
    read_json,
    read_lines,
    usable_box,
)
from datamodules.records import Box, Record, TaggedText, VCRItem

CHOICES = 4
FIELDS = ("img_fn", "metadata_fn", "objects", "question", "answer_choices", "rationale_choices", "annot_id")


class TagError(Exception):
    """A tag names no usable object."""


class Objects(NamedTuple):
    """An image's usable objects, and for each object of the raw file its number among them (or None)."""

    boxes: tuple[Box, ...]
    names: tuple[str, ...]
    numbers: tuple[int | None, ...]


class Dataset(RawDataset):
    """``{train,val,test}.jsonl``, and ``vcr1images/`` with the images and their metadata."""

    kind = "vcr"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the one folder of the official layout."""
        return ("vcr1images",)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a usable question."""
        rows = group(read_lines(self.src / f"{split}.jsonl", FIELDS, skip), "img_fn")
        for image_name in order(sorted(rows)):
            objects = self.objects(rows[image_name][0], skip)
            if objects is None:
                continue
            items = tuple(item for row in rows[image_name] if (item := usable_item(row, objects, skip)) is not None)
            if items:
                stem = str(PurePosixPath(image_name).with_suffix(""))
                key = re.sub(r"[^\w/-]", "_", stem, flags=re.ASCII)  # VCR's names hold dots, which end a tar key
                yield Item(key, image_name, Record(f"vcr/{stem}", objects.boxes, objects.names, vcr=items))

    def objects(self, row: Row, skip: SkipDefect) -> Objects | None:
        """Read the objects of a row's image; None, counted, if its metadata are missing or broken."""
        path = self.src / "vcr1images" / row["metadata_fn"]
        try:
            metadata = check_rows([read_json(path)], ("boxes", "names", "width", "height"), str(path))[0]
        except (FileNotFoundError, ValueError) as error:
            skip("missing metadata" if isinstance(error, FileNotFoundError) else "bad json", str(error))
            return None
        if len(metadata["boxes"]) != len(metadata["names"]):
            skip(
                "boxes without names",
                f"{path}: {len(metadata['boxes'])} boxes, {len(metadata['names'])} names",
            )
            return None
        size = (metadata["width"], metadata["height"])
        boxes: list[Box] = []
        names: list[str] = []
        numbers: list[int | None] = []
        for number, (corners, name) in enumerate(zip(metadata["boxes"], metadata["names"], strict=True)):
            box = usable_box(corners[:4], size, f"{path}, box {number}", skip)
            numbers.append(None if box is None else len(boxes))
            if box is not None:
                boxes.append(box)
                names.append(str(name))
        return Objects(tuple(boxes), tuple(names), tuple(numbers))


def usable_item(row: Row, objects: Objects, skip: SkipDefect) -> VCRItem | None:
    """Return a question with its choices; None, counted, if a tag, a label or a choice is wrong."""
    where = f"{row['img_fn']}, {row['annot_id']}"
    answer_label, rationale_label = row.get("answer_label"), row.get("rationale_label")
    if len(row["objects"]) != len(objects.numbers):
        skip(
            "objects differ from the metadata",
            f"{where}: {len(row['objects'])}, not {len(objects.numbers)} objects",
        )
    elif len(row["answer_choices"]) != CHOICES or len(row["rationale_choices"]) != CHOICES:
        skip("not four choices", where)
    elif not all(label is None or label in range(CHOICES) for label in (answer_label, rationale_label)):
        skip("label out of range", f"{where}: answer {answer_label}, rationale {rationale_label}")
    elif not row["question"]:
        skip("empty question", where)
    elif not all((*row["answer_choices"], *row["rationale_choices"])):
        skip("empty choice", where)
    else:
        try:
            return VCRItem(
                id=str(row["annot_id"]),
                question=renumbered(row["question"], objects),
                answer_choices=tuple(renumbered(choice, objects) for choice in row["answer_choices"]),
                answer_label=answer_label,
                rationale_choices=tuple(renumbered(choice, objects) for choice in row["rationale_choices"]),
                rationale_label=rationale_label,
                family=str(row.get("family", "")),
            )
        except TagError as error:
            skip("tag without a box", f"{where}: {error}")
    return None


def renumbered(text: list[str | list[int]], objects: Objects) -> TaggedText:
    """Return a text with its tags in the numbers of the usable objects.

    Raises:
        TagError: A tag names an object that is not there or has no usable box.
    """
    parts: list[str | tuple[int, ...]] = []
    for part in text:
        if isinstance(part, str):
            parts.append(clean_text(part))
            continue
        tags = []
        for tag in part:
            number = objects.numbers[tag] if tag in range(len(objects.numbers)) else None
            if number is None:
                raise TagError(f"tag {tag} of {len(objects.numbers)} objects")
            tags.append(number)
        parts.append(tuple(tags))
    return tuple(parts)
