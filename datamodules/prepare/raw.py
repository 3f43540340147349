"""What a raw data set says about itself, and the checks that all of them share.

Defects of the source are never repaired in silence: each is counted under a short fixed phrase, with the
place of the first hundred, and stands in the manifest.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from datamodules.records import BOX_DECIMALS, Box, Kind, Record

T = TypeVar("T")
Row = dict[str, Any]  # one entry of an annotation file
SkipDefect = Callable[[str, str], None]  # kind, where
MIN_SIDE = 2 * 10.0**-BOX_DECIMALS  # of the image's; a smaller box may be rounded away
CLIP_TOLERANCE = 1.0  # px beyond the edge that annotators' rounding explains; more is reported


class Item(NamedTuple):
    """One image and what is known of it."""

    key: str  # of the sample in its shard
    image_name: str  # file name, relative to one of `RawDataset.image_places`
    record: Record


class Order(ABC):
    """How the images of a split are put into shards."""

    @abstractmethod
    def __call__(self, ids: Iterable[T]) -> Sequence[T]:
        """Return the ids in the order of conversion."""


class RawDataset(ABC):
    """A data set in its official raw layout."""

    kind: ClassVar[Kind]

    def __init__(self, src: Path) -> None:
        """Name the raw folder; arguments that a data set adds are options of the command line."""
        self.src = src

    @abstractmethod
    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and tars below ``src`` that may hold the images; those that exist are used."""

    @abstractmethod
    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield a split's images with their records in the given order; report defects to ``skip``."""

    def finish(self, out: Path) -> None:  # noqa: B027  (most data sets have nothing to add)
        """Write what belongs beside the shards of all splits."""


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Parse a JSON file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: --src must name a folder in the official layout")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again") from error


def check_rows(rows: object, fields: Iterable[str], where: str) -> list[Row]:
    """Return ``rows`` if it is a list of objects that all have the fields.

    Raises:
        ValueError: It is not; the message says where, which row and which key.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{where}: a list is needed here; is this the official file?")
    needed = set(fields)
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not needed <= row.keys():
            missing = sorted(needed - set(row)) if isinstance(row, dict) else sorted(needed)
            raise ValueError(f"{where}, row {number}: keys {missing} are missing; is this the official file?")
    return rows


def read_rows(path: Path, key: str | None, fields: Iterable[str]) -> list[Row]:
    """Return the list under ``key`` of a JSON file (None: the file is the list), each row checked."""
    content = read_json(path)
    if key is None:
        return check_rows(content, fields, str(path))
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"{path}: key {key!r} is missing; is this the official file?")
    return check_rows(content[key], fields, f"{path}, {key!r}")


def read_lines(path: Path, fields: Iterable[str], skip: SkipDefect) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file; a line that is no JSON is counted, a missing field an error."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: --src must name a folder in the official layout")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                skip("bad json", f"{where}: {error}")
                continue
            yield from check_rows([row], fields, where)


def group(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    """Collect rows by the value of one key, in the order of first occurrence."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return dict(groups)


def first_existing(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of several possible files; raises FileNotFoundError naming them all."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"none of {', '.join(names)} in {folder}: --src must name a folder in the official layout")


def clean_text(text: object) -> str:
    """Return a text on one line, single-spaced, without halves of surrogate pairs; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return " ".join(text.encode("utf-8", "ignore").decode().split())


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def corners_of(box: object) -> tuple[float, ...]:
    """Return x0, y0, x1, y1 of x, y, width, height; nothing, which `usable_box` counts, of what is no box."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        return ()
    x, y, width, height = box
    return x, y, x + width, y + height


def usable_box(corners: Sequence[Any], size: tuple[Any, Any], where: str, skip: SkipDefect) -> Box | None:
    """Normalise a box, or count why it cannot be used.

    A box that lies partly outside the image is clipped, and counted if it is more than a pixel.

    Args:
        corners: x0, y0, x1, y1 in pixels.
        size: Width and height of the image in pixels, as the annotations say.
        where: For the report.
        skip: Counts the defects.

    Returns:
        xyxy in [0, 1], or None.
    """
    at = f"{where}, box {list(corners)} in an image of {size[0]} x {size[1]}"
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


def box_defect(corners: Sequence[Any], size: tuple[Any, Any]) -> str | None:
    """Return why a box cannot be used, or None if it can."""
    if not all(is_number(side) and side > 0 for side in size):
        return "image without a size"
    if len(corners) != 4 or not all(map(is_number, corners)):
        return "box without numbers"
    (x0, y0, x1, y1), (width, height) = corners, size
    if x1 <= x0 or y1 <= y0:
        return "box of zero area"
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return "box outside the image"
    inside = (min(x1, width) - max(x0, 0)) / width, (min(y1, height) - max(y0, 0)) / height
    return "box of zero area" if min(inside) < MIN_SIDE else None
