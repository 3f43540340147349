"""Which number each class name has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

FORM = "a JSON list of class names, or {name: number}"


def read_classes(source: list[str] | str | None, count: int | None = None) -> dict[str, int]:
    """Return the class number by name.

    Args:
        source: the names, or a JSON file: a list of names (number = place), or {name: number}, where several
            names may share a number.
        count: how many classes there are; not checked when None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name occurs twice, or a number is out of range; names the file.
    """
    where = f"data.classes {source}" if isinstance(source, str) else "data.classes"
    pairs = _read_pairs(source, where) if isinstance(source, str) else _numbered(source or ())
    classes: dict[str, int] = {}
    for name, number in pairs:
        if not isinstance(name, str) or name in classes:
            raise ValueError(f"{where}: {name!r} {'occurs twice' if isinstance(name, str) else 'is not a name'}")
        if type(number) is not int or number < 0 or (count is not None and number >= count):
            bound = "" if count is None else f" and below the model's {count} classes"
            raise ValueError(f"{where}: {name!r} has number {number!r}; it must be whole, at least 0{bound}")
        classes[name] = number
    return classes


def _read_pairs(path: str, where: str) -> list[tuple[object, object]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{where}: no such file; give {FORM}")
    try:  # an object comes back as its pairs, so that a name that occurs twice is seen
        loaded = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=tuple)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if isinstance(loaded, tuple):
        return list(loaded)
    if not isinstance(loaded, list):
        raise ValueError(f"{where} must be {FORM}")
    return _numbered(loaded)


def _numbered(names: Iterable[object]) -> list[tuple[object, object]]:
    return [(name, number) for number, name in enumerate(names)]
