"""Captions in the form of Karpathy's splits (arXiv 1412.2306): ``dataset_NAME.json`` with five captions an image.

His `caption_datasets.zip` holds three such files, so that a data set is a module of its own with a few lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

from datamodules.prepare.raw import Item, Order, RawDataset, clean_text, tar_key
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    ID,
    LIST,
    TEXT,
    WHOLE,
    Fields,
    Row,
    SkipDefect,
    check_rows,
    distinct,
    existing_file,
    optional,
    read_rows,
)
from datamodules.records import Kind, Record, Text

SPLITS = ("train", "val", "test")
RESTVAL = "restval"  # the 30,504 images of COCO's val2014 that are in neither val nor test
IMAGE: Fields = {"filename": FILE_NAME, "split": TEXT, "sentences": LIST, "cocoid": optional(WHOLE)}
SENTENCE: Fields = {"sentid": ID, "raw": ANY}


class KarpathyDataset(RawDataset):
    """``dataset_NAME.json`` and the images, in any of ``folders``."""

    kind: ClassVar[Kind] = "texts"
    name: ClassVar[str]  # of the data set in the file's name and in the image ids
    folders: ClassVar[tuple[str, ...]]

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and archives that may hold the images: splits share them."""
        return self.folders

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the one file of all splits."""
        return (existing_file(self.src / f"dataset_{self.name}.json"),)

    def labels(self, split: str) -> tuple[str, ...]:
        """Return what the file calls the images of a split.

        Raises:
            ValueError: There is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"{self.name} has no split {split!r}, only {', '.join(SPLITS)}; give others with --splits")
        return (split,)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image of the split that has a caption."""
        (path,) = self.annotation_files(split)
        labels = self.labels(split)
        rows = distinct(read_rows(path, "images", IMAGE, skip), "filename", path.name, skip)
        images = {row["filename"]: row for row in rows if is_of(row, labels, path.name, skip)}
        for name in order(sorted(images)):
            texts = usable_texts(images[name], f"{path.name}, {name}", skip)
            if texts:
                yield Item(tar_key(name), name, Record(self.image_id(images[name]), texts=texts))
            else:
                skip("no caption", f"{path.name}, {name}")

    def image_id(self, image: Row) -> str:
        """Return the record's image id; COCO's images have COCO's own."""
        coco_id = image.get("cocoid")
        return f"{self.name}/{PurePosixPath(image['filename']).stem}" if coco_id is None else f"coco/{coco_id}"


def is_of(image: Row, labels: tuple[str, ...], where: str, skip: SkipDefect) -> bool:
    """Return whether an image has one of the split labels; labels that nobody knows are counted."""
    if image["split"] not in (*SPLITS, RESTVAL):
        skip("unknown split", f"{where}, {image['filename']}: {image['split']!r:.80}")
    return image["split"] in labels


def usable_texts(image: Row, where: str, skip: SkipDefect) -> tuple[Text, ...]:
    """Return an image's captions, as people wrote them; empty ones are counted."""
    texts = []
    for row in distinct(check_rows(image["sentences"], SENTENCE, where, skip), "sentid", where, skip):
        caption = clean_text(row["raw"])
        if caption:
            texts.append(Text(str(row["sentid"]), caption, None))
        else:
            skip("empty caption", f"{where}, sentence {row['sentid']}")
    return tuple(texts)
