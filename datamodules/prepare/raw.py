"""What a raw data set says about itself, and the checks that all of them share.

Defects of the source are never repaired in silence: each is counted under a short fixed phrase, with the
place of the first hundred, and stands in the manifest.
"""

from __future__ import annotations

import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, TypeVar

from datamodules.prepare.rows import SkipDefect, is_number
from datamodules.records import BOX_DECIMALS, Box, Kind, Record, Statement

T = TypeVar("T")
MIN_SIDE = 2 * 10.0**-BOX_DECIMALS  # of the image's; a smaller box may be rounded away
CLIP_TOLERANCE = 1.0  # px beyond the edge that annotators' rounding explains; more is reported


class MaskFile(NamedTuple):
    """The mask of an image, a PNG of one channel."""

    name: str  # file name, relative to one of `RawDataset.image_places`
    classes: int  # the largest number that a pixel may have


class Item(NamedTuple):
    """One image and what is known of it."""

    key: str  # of the sample in its shard
    image_name: str | None  # file name, relative to one of `RawDataset.image_places`; None of a text alone
    record: Record
    right_name: str | None = None  # of the second image of a pair
    mask: MaskFile | None = None


class Objects(NamedTuple):
    """An image's usable objects, and for each object of the raw file its number among them (or None)."""

    boxes: tuple[Box, ...]
    names: tuple[str, ...]
    numbers: tuple[int | None, ...]


class Order(ABC):
    """How the images of a split are put into shards."""

    @abstractmethod
    def __call__(self, ids: Iterable[T]) -> Sequence[T]:
        """Return the ids in the order of conversion."""


class RawDataset(ABC):
    """A data set in its official raw layout."""

    kind: ClassVar[Kind]
    command: ClassVar[str | None] = None  # its name on the command line; that of its module by default
    # whether boxes are given in pixels of the images as stored, and not of the upright ones; those that have any say so
    stored_boxes: ClassVar[bool] = False
    follow_links = False  # see `datamodules.prepare.images.Folder`; an option of all data sets

    def __init__(self, src: Path) -> None:
        """Name the raw folder; arguments that a data set adds are options of the command line."""
        self.src = src

    def set_follow_links(self, follow_links: bool) -> None:
        """Say before anything is read whether links may lead out of the raw folder."""
        self.follow_links = follow_links

    @abstractmethod
    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the names below ``src`` of what may hold the images: folders, or archives NAME.tar, NAME.zip.

        Those that exist are used. None of texts alone.
        """

    def check_splits(self, splits: Sequence[str]) -> None:  # noqa: B027 (most have nothing to check)
        """Raise ValueError where these splits cannot be converted by one command."""

    def check_beside(self, folder: Path, made_from: Mapping[str, Mapping[str, Any]]) -> None:  # noqa: B027 (likewise)
        """Raise ValueError where other splits in ``folder`` do not go together with those of this conversion.

        Args:
            folder: Of the data set's splits.
            made_from: What each split is about to be made from, as its manifest will say.
        """

    @abstractmethod
    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the files that a split's records come from; their hashes stand in the manifest.

        Raises:
            FileNotFoundError: One is missing.
        """

    def listing(self, split: str) -> str | None:
        """Return a hash of what decides a split beside its files of annotations; None where nothing does."""
        del split
        return None

    @abstractmethod
    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield a split's images with their records in the given order; report defects to ``skip``."""

    def class_names(self) -> list[str]:
        """Return the names of the classes of labels or masks, in order; ``OUT/NAME/classes.json`` gets them."""
        return []

    def finish(self, out: Path) -> None:  # noqa: B027  (most data sets have nothing to add)
        """Write what belongs beside the shards of all splits."""


def clean_text(text: object) -> str:
    """Return a text on one line, single-spaced, without halves of surrogate pairs; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return " ".join(text.encode("utf-8", "ignore").decode().split())


def tar_key(image_name: str) -> str:
    """Return an image's name without its ending, as a key: dots would end a key in a tar."""
    stem = str(PurePosixPath(image_name).with_suffix("")).lstrip("/")
    return re.sub(r"[^\w/-]", "_", stem, flags=re.ASCII)


def truth(label: object) -> str | None:
    """Return "true" or "false" of a label in any case, None of none; what is neither stays as it is."""
    return None if label is None else str(label).lower()


def usable_statement(statement: Statement, labels: Collection[str], where: str, skip: SkipDefect) -> Statement | None:
    """Return a statement if it has a text and one of the labels, or none; else None, counted."""
    at = f"{where}, statement {statement.id}"
    if not statement.text:
        skip("empty statement", at)
    elif statement.label is not None and statement.label not in labels:
        skip("unknown label", f"{at}: {statement.label!r:.80}, not one of {', '.join(labels)}")
    else:
        return statement
    return None


def corners_of(box: object) -> tuple[float, ...]:
    """Return x0, y0, x1, y1 of x, y, width, height; nothing, which `usable_box` counts, of what is no box."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        return ()
    x, y, width, height = box
    return x, y, x + width, y + height


def usable_box(corners: Any, size: tuple[Any, Any], where: str, skip: SkipDefect) -> Box | None:  # noqa: ANN401
    """Normalise a box, or count why it cannot be used.

    A box that lies partly outside the image is clipped, and counted if it is more than a pixel.

    Args:
        corners: x0, y0, x1, y1 in pixels; what is not a list of four numbers is counted.
        size: Width and height of the image in pixels, as the annotations say.
        where: For the report.
        skip: Counts the defects.

    Returns:
        xyxy in [0, 1], or None.
    """
    at = f"{where}, box {reprlib.repr(corners)} in an image of {reprlib.repr(size[0])} x {reprlib.repr(size[1])}"
    defect = box_defect(corners, size)
    if defect is not None:
        skip(defect, at)
        return None
    (x0, y0, x1, y1), (width, height) = corners, size
    if max(-x0, -y0, x1 - width, y1 - height) > CLIP_TOLERANCE:
        skip("box clipped", at)
    return (
        round(max(x0, 0) / width, BOX_DECIMALS),
        round(max(y0, 0) / height, BOX_DECIMALS),
        round(min(x1, width) / width, BOX_DECIMALS),
        round(min(y1, height) / height, BOX_DECIMALS),
    )


def usable_objects(
    boxes: Sequence[Any], names: Sequence[Any], size: tuple[Any, Any], where: str, skip: SkipDefect
) -> Objects | None:
    """Return the objects that have a usable box; the others are counted, and so is a list with other names than boxes.

    Args:
        boxes: x0, y0, x1, y1 in pixels of each object.
        names: The class of each.
        size: Width and height of the image in pixels.
        where: For the report.
        skip: Counts the defects.
    """
    if len(boxes) != len(names):
        skip("boxes without names", f"{where}: {len(boxes)} boxes, {len(names)} names")
        return None
    found = [usable_box(box, size, f"{where}, box {number}", skip) for number, box in enumerate(boxes)]
    kept = [number for number, box in enumerate(found) if box is not None]
    numbers = {number: place for place, number in enumerate(kept)}
    return Objects(
        tuple(box for box in found if box is not None),
        tuple(clean_text(names[number]) for number in kept),
        tuple(map(numbers.get, range(len(found)))),
    )


def box_defect(corners: Any, size: tuple[Any, Any]) -> str | None:  # noqa: ANN401
    """Return why a box cannot be used, or None if it can."""
    if not all(is_number(side) and side > 0 for side in size):
        return "image without a size"
    if not isinstance(corners, list | tuple) or len(corners) != 4 or not all(map(is_number, corners)):
        return "box without numbers"
    (x0, y0, x1, y1), (width, height) = corners, size
    if x1 <= x0 or y1 <= y0:
        return "box of zero area"
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return "box outside the image"
    inside = (min(x1, width) - max(x0, 0)) / width, (min(y1, height) - max(y0, 0)) / height
    return "box of zero area" if min(inside) < MIN_SIDE else None
