"""ADE20K for scene parsing (ADEChallengeData2016): 20,210 training and 2,000 validation images, 150 classes.

``images/training/*.jpg`` and ``annotations/training/*.png`` lie side by side, ``validation`` likewise; a pixel of an
annotation is 0 for what is no class, else the number of a class in ``objectInfo150.txt``. Any data set of this form
will do, with any number of classes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from datamodules.prepare.raw import Item, MaskFile, Order, RawDataset, tar_key
from datamodules.prepare.rows import SkipDefect, existing_file, is_file_name
from datamodules.records import Mask, Record

OBJECTS = "objectInfo150.txt"
FOLDERS = {"train": "training", "val": "validation"}  # of our splits; others have their own name
MOST_CLASSES = 255  # that a pixel of 8 bits can name


class Dataset(RawDataset):
    """``images/{training,validation}/*.jpg``, ``annotations/{training,validation}/*.png`` and ``objectInfo150.txt``."""

    kind = "masks"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the raw folder itself."""
        del split
        return (".",)

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the list of classes; the masks are not hashed."""
        for kind in ("images", "annotations"):
            self.files(kind, split)
        return (existing_file(self.src / OBJECTS),)

    def listing(self, split: str) -> str:
        """Return a digest of the names of the masks."""
        names = "\n".join(sorted(self.files("annotations", split)))
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()

    def files(self, kind: str, split: str) -> dict[str, str]:
        """Return the file names of images or annotations by what comes before their ending.

        Raises:
            FileNotFoundError: The folder is missing.
        """
        folder = self.src / kind / FOLDERS.get(split, split)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} not found: --src must be ADEChallengeData2016, unpacked, with images and annotations"
            )
        return {Path(name).stem: name for name in sorted(os.listdir(folder)) if not name.startswith(".")}

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a mask."""
        images, masks = self.files("images", split), self.files("annotations", split)
        folder, classes = FOLDERS.get(split, split), len(self.class_names())
        for stem in sorted(images.keys() - masks.keys()):
            skip("image without a mask", f"{folder}/{images[stem]!r}")
        for stem in sorted(masks.keys() - images.keys()):
            skip("mask without an image", f"{folder}/{masks[stem]!r}")
        for stem in order(sorted(images.keys() & masks.keys())):
            image, mask = f"images/{folder}/{images[stem]}", f"annotations/{folder}/{masks[stem]}"
            if is_file_name(image):
                record = Record(f"ade20k/{stem}", masks=(Mask("0"),))
                yield Item(tar_key(images[stem]), image, record, mask=MaskFile(mask, classes))
            else:
                skip("bad file name", repr(image))

    def class_names(self) -> list[str]:
        """Return the names of the classes; the first is number 1 in the masks."""
        return self.classes

    @cached_property
    def classes(self) -> list[str]:
        """The names of objectInfo150.txt.

        Raises:
            ValueError: It is of another form: its rows must be numbered from 1, in order, the name in the last column.
        """
        path = existing_file(self.src / OBJECTS)
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        names = [" ".join(row[-1].split()) for row in lines]
        wrong = [place for place, row in enumerate(lines, 1) if len(row) < 2 or row[0].strip() != str(place)]
        if wrong or not names or "" in names or len(names) > MOST_CLASSES:
            told = f"row {wrong[0]} is {lines[wrong[0] - 1]}" if wrong else f"{len(names)} names"
            raise ValueError(f"{path}: columns by tabs are needed, Idx from 1 in order first and Name last; {told}")
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: {next(name for name in names if names.count(name) > 1)!r} occurs twice")
        return names
