"""Small files that must survive whatever happens: written whole, on the disk, valid."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from vle_lightning.errors import UserError


def write_json(file: Path, content: Mapping[str, object] | Sequence[object], durable: bool = True) -> None:
    """Write a file that a person can read, all or nothing; numbers that JSON does not know become null.

    Args:
        file: to write.
        content: plain types.
        durable: see `write_text`.

    Raises:
        OSError: the disk is full or gone.
    """
    write_text(file, json.dumps(finite(content), indent=2, allow_nan=False) + "\n", durable)


def write_text(file: Path, content: str, durable: bool = True) -> None:
    """Write a file, all or nothing.

    Args:
        file: to write; its folder is made.
        content: of the file.
        durable: wait until it is on the disk, so that not even a power cut leaves an empty file.

    Raises:
        OSError: the disk is full or gone.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")  # each process its own
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        unfinished.replace(file)
    except OSError as error:  # which does not name the file where the disk is full
        unfinished.unlink(missing_ok=True)  # what there is of it would keep the disk full
        raise OSError(error.errno, error.strerror, str(file)) from error
    if durable:
        flush(file.parent)


def flush(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_object(file: Path) -> dict[str, Any]:
    """Read a record of this code; {} where there is none yet.

    Raises:
        UserError: it is not JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: it is not JSON ({error}); delete it or bring back a copy") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object; delete it or bring back a copy")
    return content


def is_number(value: object) -> TypeGuard[float]:
    """Is it a finite number, as JSON has them? Whole numbers that no float can hold are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def finite(value: Any) -> Any:  # noqa: ANN401 (any content of a JSON file)
    """Return a value with null in the place of each number that is not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
