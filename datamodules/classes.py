"""Which number each class name has."""

from __future__ import annotations

import json
from pathlib import Path


def read_classes(source: list[str] | str | None, count: int | None = None) -> dict[str, int]:
    """Return the class number by name.

    Args:
        source: the names, or a JSON file: a list of names (number = place), or {name: number}; names may share one.
        count: how many classes there are; not checked when None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name occurs twice, or a number is out of range; names the file.
    """
    where = f"data.classes {source}" if isinstance(source, str) else "data.classes"
    pairs = _read_pairs(source, where) if isinstance(source, str) else [(name, i) for i, name in enumerate(source or ())]
    classes: dict[str, int] = {}
    for name, number in pairs:
        if not isinstance(name, str) or name in classes:
            raise ValueError(f"{where}: {name!r} {'occurs twice' if isinstance(name, str) else 'is no name'}")
        if type(number) is not int or number < 0 or (count is not None and number >= count):
            bound = "" if count is None else f", below the {count} classes of the model"
            raise ValueError(f"{where}: the number of {name!r} is {number!r}; it must be a whole number from 0{bound}")
        classes[name] = number
    return classes


def _read_pairs(path: str, where: str) -> list[tuple[object, object]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{where}: no such file; give a JSON list of class names, or {{name: number}}")
    try:  # an object comes back as its pairs, so that a name that occurs twice is seen
        loaded = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=tuple)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if isinstance(loaded, tuple):
        return list(loaded)
    if not isinstance(loaded, list):
        raise ValueError(f"{where} must be a JSON list of class names, or {{name: number}}")
    return [(name, number) for number, name in enumerate(loaded)]
