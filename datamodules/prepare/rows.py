"""Rows of annotation files: read, and checked field by field.

A file that lacks a key of the official layout is in another layout and refused. A single row with a value that
cannot be used is left out and counted, so that one broken line costs no conversion of millions.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

Row = dict[str, Any]  # one entry of an annotation file
SkipDefect = Callable[[str, str], None]  # kind, where

LARGEST = 2.0**53  # beyond it floats are no exact numbers
LONGEST_ID = 200  # bytes
LONGEST_PART, LONGEST_NAME = 240, 1000  # bytes of a file name, and of a path; file systems take 255 and 4,096
LONGEST_LINE = 2**24  # bytes of a row in a file of lines
MOST_JSON = 2**32  # bytes of a JSON file, which is read whole; the largest official one has 0.7 GB
UNUSABLE = re.compile("[\0\ud800-\udfff]")  # in file names: NUL, and halves of surrogate pairs


class Field(NamedTuple):
    """What the value under a key must be."""

    what: str  # for messages
    fits: Callable[[Any], bool]
    needed: bool = True  # whether every row of the official layout has the key


Fields = Mapping[str, Field]  # by key


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, written as one."""
    return isinstance(value, int) and is_number(value)


def is_id(value: object) -> bool:
    """Return whether a value may name something: a whole number, or a short text on one line."""
    if isinstance(value, str):
        return value.isprintable() and not value.isspace() and 0 < len(value.encode()) <= LONGEST_ID
    return is_whole(value)


def is_file_name(value: object) -> bool:
    """Return whether a value may be the path of a file."""
    if not isinstance(value, str) or UNUSABLE.search(value) or not Path(value).name:
        return False
    return len(value.encode()) <= LONGEST_NAME and all(len(part.encode()) <= LONGEST_PART for part in value.split("/"))


ANY = Field("anything", lambda _: True)  # of which the data set's module makes what it can
ID = Field("an id (a whole number or a short text)", is_id)
WHOLE = Field("a whole number", is_whole)
TEXT = Field("a text", lambda value: isinstance(value, str))
FILE_NAME = Field("a file name", is_file_name)
LIST = Field("a list", lambda value: isinstance(value, list))


def uncounted(kind: str, where: str) -> None:
    """Take the defects of a second reading, which the first has counted."""


def optional(field: Field) -> Field:
    """Return a field that rows may lack or leave null."""
    return Field(f"{field.what} or null", lambda value: value is None or field.fits(value), needed=False)


def existing_file(path: Path) -> Path:
    """Return the path of a raw file; raises FileNotFoundError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: --src must name a folder in the official layout")
    return path


def first_existing(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of several possible files; raises FileNotFoundError naming them all."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"none of {', '.join(names)} in {folder}: --src must name a folder in the official layout")


def read_json(path: Path, most: int = MOST_JSON) -> Any:  # noqa: ANN401
    """Parse a JSON file.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not JSON, or too large.
    """
    size = existing_file(path).stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size:,} bytes; a JSON file of at most {most:,} is read: is this the right file?")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again") from error


def described(content: object) -> str:
    """Say what a JSON value is, for messages: its kind, and the keys of an object."""
    if isinstance(content, dict):
        return f"an object with the keys {reprlib.repr(sorted(content))}"
    if isinstance(content, list):
        return f"an array of {len(content):,}"
    return f"{type(content).__name__} {reprlib.repr(content)}"


def row_fits(row: object, fields: Fields, where: str, skip: SkipDefect) -> bool:
    """Return whether a row can be used; a value of a wrong type is counted.

    Raises:
        ValueError: It is no object, or has not all needed keys; the message says where and which.
    """
    present = row if isinstance(row, dict) else {}
    missing = sorted(key for key, field in fields.items() if field.needed and key not in present)
    if missing or not isinstance(row, dict):
        raise ValueError(f"{where}: keys {missing} are missing from {described(row)}; is this the official file?")
    for key, field in fields.items():
        if key in row and not field.fits(row[key]):
            skip("field of a wrong type", f"{where}: {key!r} is {reprlib.repr(row[key])}, not {field.what}")
            return False
    return True


def check_rows(rows: object, fields: Fields, where: str, skip: SkipDefect) -> list[Row]:
    """Return those of ``rows`` that can be used.

    Raises:
        ValueError: It is not a list of objects that all have the needed keys.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{where}: a list of objects is needed here, this is {described(rows)}")
    return [row for number, row in enumerate(rows) if row_fits(row, fields, f"{where}, row {number}", skip)]


def read_rows(path: Path, key: str | None, fields: Fields, skip: SkipDefect) -> list[Row]:
    """Return the list under ``key`` of a JSON file (None: the file is the list), each row checked."""
    content = read_json(path)
    if key is None:
        return check_rows(content, fields, str(path), skip)
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"{path}: a JSON object with the key {key!r} is needed, this is {described(content)}")
    return check_rows(content[key], fields, f"{path}, {key!r}", skip)


def read_line(file: BinaryIO) -> bytes:
    """Return a file's next line; of one that is too long, its beginning, which `parse_line` counts."""
    return file.readline(LONGEST_LINE + 1)


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's lines as `read_line` returns them; the file then stands at the next one."""
    while line := read_line(file):
        end = line
        while len(end) > LONGEST_LINE and not end.endswith(b"\n"):  # the rest of a line that is too long
            end = read_line(file)
        yield line


def parse_line(
    line: bytes, fields: Fields, where: str, skip: SkipDefect, spelt: Mapping[str, str] | None = None
) -> Row | None:
    """Return the row on a line; None if the line is empty, or, counted, if it cannot be used; see `read_lines`."""
    if len(line) > LONGEST_LINE:
        skip("line too long", f"{where}: more than {LONGEST_LINE:,} bytes")
        return None
    if not line.strip():
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        skip("bad json", f"{where}: {error}")
        return None
    if spelt and isinstance(row, dict):
        row = {spelt.get(key, key): value for key, value in row.items()}
    return row if row_fits(row, fields, where, skip) else None


def read_lines(path: Path, fields: Fields, skip: SkipDefect, spelt: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file; a line that is not JSON is counted, a missing key an error.

    Args:
        path: The file.
        fields: What each row must hold.
        skip: Counts the defects.
        spelt: Other spellings of keys, by which they are known too.
    """
    with existing_file(path).open("rb") as file:
        for number, line in enumerate(bounded_lines(file), 1):
            row = parse_line(line, fields, f"{path}, line {number}", skip, spelt)
            if row is not None:
                yield row


def distinct(rows: Iterable[Row], key: str, where: object, skip: SkipDefect) -> Iterator[Row]:
    """Yield the first row of each id; those that come again with the same one are counted."""
    seen = set()
    for row in rows:
        name = str(row[key])  # as it stands in records, where 1 and "1" are the same
        if name in seen:
            skip("id given twice", f"{where}: {key} {name}")
        else:
            seen.add(name)
            yield row


def group(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    """Collect rows by the value of one key, in the order of first occurrence."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return dict(groups)


def sorted_ids(ids: Iterable[Any]) -> list[Any]:
    """Return ids in order: numbers, then texts."""
    return sorted(ids, key=lambda name: (isinstance(name, str), name))
