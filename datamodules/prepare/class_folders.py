"""Images in classes: a folder a split with a subfolder a class, of any names.

``SRC/train/red circle/a.jpg`` is a training image of the class "red circle". The subfolders of train, sorted by name,
are the classes; other splits may lack some and have no others. ``OUT/NAME/classes.json`` lists them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare.raw import Item, Order, RawDataset
from datamodules.prepare.rows import SkipDefect, is_file_name, uncounted
from datamodules.records import Label, Record

TRAIN = "train"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")  # endings, in any case


class Found(NamedTuple):
    """An image of a split."""

    name: str  # path below the raw folder
    label: str | None  # the name of its class; None where hidden


class Dataset(RawDataset):
    """``SPLIT/CLASS/*.jpg``, in any depth below CLASS."""

    kind = "labels"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the raw folder itself: names begin with the split."""
        del split
        return (".",)

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return none: the folders say it."""
        self.split_folder(split)
        return ()

    def listing(self, split: str) -> str:
        """Return a digest of the images' names and classes."""
        found = hashlib.sha256()
        for image in self.images(split, uncounted):
            found.update(f"{image.name}\0{image.label}\n".encode())
        return found.hexdigest()

    def class_names(self) -> list[str]:
        """Return the subfolders of train, sorted.

        Raises:
            FileNotFoundError: There is no train.
            ValueError: It has no subfolders, or one whose name is no text.
        """
        return self.folders()

    def folders(self) -> list[str]:
        """Return the subfolders of train; raises as `class_names` does."""
        names = subfolders(self.split_folder(TRAIN))
        if not names:
            raise ValueError(f"{self.src / TRAIN} has no subfolders: --src must hold SPLIT/CLASS/*.jpg")
        return names

    def split_folder(self, split: str) -> Path:
        """Return the folder of a split; raises FileNotFoundError where there is none."""
        if not (self.src / split).is_dir():
            raise FileNotFoundError(f"{self.src / split} not found: --src must hold SPLIT/CLASS/*.jpg")
        return self.src / split

    def images(self, split: str, skip: SkipDefect) -> list[Found]:
        """Return the images of a split, sorted by class and name; files that are none are counted.

        Raises:
            ValueError: A subfolder is no class of train.
        """
        known, found = set(self.folders()), []
        for name in subfolders(self.split_folder(split)):
            if name not in known:
                raise ValueError(f"{self.src / split / name}: train has no such class; rename or remove the folder")
            found += [Found(image, name) for image in picture_names(self.src, f"{split}/{name}", skip)]
        return found

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image with its class."""
        found = self.images(split, skip)
        for number in order(range(len(found))):
            image = found[number]
            record = Record(self.image_id(image.name), labels=(Label("0", self.described(image.label)),))
            yield Item(f"{number + 1:09d}", image.name, record)

    def image_id(self, name: str) -> str:
        """Return the id of an image by its path."""
        return f"class_folders/{name}"

    def described(self, label: str | None) -> str | None:
        """Return the name that a class has in records and in the list of classes."""
        return label


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; hidden ones are none of the classes.

    Raises:
        ValueError: One is no text.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        if not is_file_name(name):
            raise ValueError(f"{folder} has a subfolder {name!r:.80}, whose name cannot be that of a class; rename it")
    return names


def picture_names(src: Path, below: str, skip: SkipDefect) -> Iterable[str]:
    """Yield the paths, below ``src``, of all pictures in a folder below it, sorted folder by folder."""
    for where, folders, files in os.walk(src / below):
        folders.sort()
        for name in sorted(files):
            path = (Path(where) / name).relative_to(src).as_posix()
            if not is_file_name(path):
                skip("bad file name", repr(path))
            elif name.lower().endswith(PICTURES):
                yield path
            else:
                skip("no picture by its ending", path)
