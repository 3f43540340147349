"""Any folder of images with captions: ``SPLIT.jsonl``, an image a line, in any number.

A line is ``{"image": "a/b.jpg", "captions": ["A dog.", "A dog on a bed."]}`` or ``{"image": ..., "caption": ...}``.
Image names are paths below the raw folder, or members of ``images.tar`` or ``images.zip``. Optional:

- "boxes": [[x0, y0, x1, y1], ...] in pixels of the upright image, and "names", the class of each ("" where not known);
- "width" and "height" of the image, in pixels. Without them the sizes are read from the images that have boxes;
- "mentions": for each caption the numbers of the boxes (from 0) that it mentions, or null where that is not known;
  beside a single "caption" a single such list.

No line is kept in memory, only where it begins, so that there may be many millions.
"""

from __future__ import annotations

import reprlib
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar

from datamodules.pictures import DECODING_ERRORS, open_raster, upright_size
from datamodules.prepare.images import Place, open_places, read_image
from datamodules.prepare.raw import Item, Objects, Order, RawDataset, clean_text, usable_objects
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    LIST,
    Fields,
    Row,
    SkipDefect,
    bounded_lines,
    existing_file,
    is_whole,
    optional,
    parse_line,
    read_line,
)
from datamodules.records import Kind, Record, Text
from datamodules.shards import SampleError

FIELDS: Fields = {
    "image": FILE_NAME,
    "captions": optional(LIST),
    "caption": ANY._replace(needed=False),
    "boxes": optional(LIST),
    "names": optional(LIST),
    "mentions": optional(LIST),
    "width": ANY._replace(needed=False),
    "height": ANY._replace(needed=False),
}
NO_OBJECTS = Objects((), (), ())


class Dataset(RawDataset):
    """``SPLIT.jsonl``, and the images below the raw folder or in an archive."""

    kind: ClassVar[Kind] = "texts"
    stored_boxes = False  # boxes are drawn on what a viewer shows

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the raw folder itself and what may lie in it."""
        return (".", "images")

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's one file."""
        return (existing_file(self.src / f"{split}.jsonl"),)

    @cached_property
    def places(self) -> list[Place]:
        """Where the images lie; opened at the first box of an image without a stated size."""
        return open_places(self.src, self.image_places(""), self.follow_links)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a caption."""
        (path,) = self.annotation_files(split)
        with path.open("rb") as file:
            offsets = line_offsets(file)
            for number in order(range(len(offsets))):
                file.seek(offsets[number])
                where = f"{path.name}, line {number + 1}"
                row = parse_line(read_line(file), FIELDS, where, skip)
                if row is None:
                    continue
                objects = self.objects(row, where, skip)
                texts = self.texts(row, objects, number + 1, where, skip)
                if texts is not None:
                    record = Record(f"image_folder/{row['image']}", objects.boxes, objects.names, texts)
                    yield Item(f"{number + 1:09d}", row["image"], record)

    def texts(self, row: Row, objects: Objects, line: int, where: str, skip: SkipDefect) -> tuple[Text, ...] | None:
        """Return the usable captions of a line; None, counted, where it has none."""
        found = usable_texts(row, objects, line, where, skip)
        if not found:
            skip("no caption", where)
        return found or None

    def objects(self, row: Row, where: str, skip: SkipDefect) -> Objects:
        """Return the usable boxes of a line."""
        boxes = row.get("boxes") or []
        size = row.get("width"), row.get("height")
        if boxes and size == (None, None):
            size = self.size_of(row["image"])
            if size == (None, None):
                return NO_OBJECTS  # nobody will see them: the image is counted as missing or unreadable
        names = row.get("names")
        return usable_objects(boxes, [""] * len(boxes) if names is None else names, size, where, skip) or NO_OBJECTS

    def size_of(self, name: str) -> tuple[int, int] | tuple[None, None]:
        """Return an image's width and height in pixels; two None if it cannot be read."""
        try:
            with open_raster(read_image(self.places, name)) as image:
                return upright_size(image)
        except (SampleError, *DECODING_ERRORS):
            return None, None


def line_offsets(file: BinaryIO) -> array[int]:
    """Return where each line begins, eight bytes a line."""
    offsets = array("q", [0])
    offsets.extend(file.tell() for _ in bounded_lines(file))
    offsets.pop()  # the end
    return offsets


def usable_texts(row: Row, objects: Objects, line: int, where: str, skip: SkipDefect) -> tuple[Text, ...]:
    """Return a line's captions with the boxes that they mention; empty ones are counted."""
    captions, mentions = row.get("captions"), row.get("mentions")
    if captions is None:
        captions = [] if row.get("caption") is None else [row["caption"]]
        mentions = None if mentions is None else [mentions]
    if mentions is None:
        mentions = [None] * len(captions)
    elif len(mentions) != len(captions):
        skip("mentions without captions", f"{where}: {len(mentions)} for {len(captions)} captions")
        mentions = [None] * len(captions)
    texts = []
    for number, (caption, mention) in enumerate(zip(captions, mentions, strict=True)):
        at = f"{where}, caption {number}"
        cleaned = clean_text(caption)
        if cleaned:
            texts.append(Text(f"{line}-{number}", cleaned, mentioned_boxes(mention, objects, at, skip)))
        else:
            skip("empty caption", at)
    return tuple(texts)


def mentioned_boxes(mention: object, objects: Objects, where: str, skip: SkipDefect) -> tuple[int, ...] | None:
    """Return the numbers among the usable boxes of those that a caption mentions; None where it is not known."""
    if mention is None or objects is NO_OBJECTS:
        return None
    if not isinstance(mention, list) or not all(is_whole(box) and 0 <= box < len(objects.numbers) for box in mention):
        skip("mention of no box", f"{where}: {reprlib.repr(mention)} of {len(objects.numbers)} boxes")
        return None
    usable = [number for box in dict.fromkeys(mention) if (number := objects.numbers[box]) is not None]
    return tuple(usable) or None
