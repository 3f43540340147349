"""Images without captions: a folder of them, for pre-training on images alone.

All pictures below the raw folder are taken, in folders of any depth. Those below ``train`` and ``val`` are these
splits; where there are no such folders, ``--hold_out 0.01`` of the images make val, chosen by their names. Where
``SPLIT.jsonl`` lies in the raw folder, its lines name the images instead, in the form of ``image_folder``: there
``boxes`` and ``names`` tell where the objects are, and captions are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from datamodules.prepare import image_folder
from datamodules.prepare.hold_out import check_known, check_share, split_of
from datamodules.prepare.raw import Item, Objects, Order
from datamodules.prepare.rows import Row, SkipDefect
from datamodules.records import Record, Text

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"))


class Dataset(image_folder.Dataset):
    """``a/b.jpg`` and other pictures in folders of any depth, or ``SPLIT.jsonl`` beside them."""

    kind = "images"
    command = "images"

    def __init__(self, src: Path, hold_out: float = 0.01) -> None:
        """Take the raw folder.

        Args:
            src: Raw folder.
            hold_out: Share of the images that val gets where it has no folder of its own.

        Raises:
            ValueError: The share is none.
        """
        check_share(hold_out)
        super().__init__(src)
        self.share = hold_out
        self._names: dict[str, list[str]] = {}

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's list, if there is one."""
        return tuple(filter(Path.is_file, (self.src / f"{split}.jsonl",)))

    @cached_property
    def has_splits(self) -> bool:
        """Are there folders for splits?"""
        return any((self.src / split).is_dir() for split in ("train", "val"))

    def names(self, split: str) -> list[str]:
        """Return the images of a split, sorted paths below the raw folder.

        Raises:
            FileNotFoundError: There are none.
        """
        if split not in self._names:
            folder = self.src / split if self.has_splits else self.src
            found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
            names = sorted(path.relative_to(self.src).as_posix() for path in found)
            if not self.has_splits:
                check_known(split, self.src)
                names = [name for name in names if split_of(name, self.share) == split]
            if not names:
                told = "" if self.has_splits else f" for {split} (--hold_out is {self.share})"
                raise FileNotFoundError(f"{folder} holds no images{told}: --src must name a folder of pictures")
            self._names[split] = names
        return self._names[split]

    def listing(self, split: str) -> str | None:
        """Return a hash of names and sizes of the images, where no file lists them."""
        if self.annotation_files(split):
            return None
        told = "\n".join(f"{name} {(self.src / name).stat().st_size}" for name in self.names(split))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image."""
        if self.annotation_files(split):
            yield from super().items(split, order, skip)
            return
        names = self.names(split)
        for number in order(range(len(names))):
            yield Item(f"{number + 1:09d}", names[number], Record(f"images/{names[number]}"))

    def texts(self, row: Row, objects: Objects, line: int, where: str, skip: SkipDefect) -> tuple[Text, ...] | None:
        """Leave the captions out."""
        return ()
