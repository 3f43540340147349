"""What ranks say to each other in plain Python."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import distributed

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Return every rank's ``value``, in the order of the ranks; all ranks must call this together."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return cast("list[T]", values)  # each is filled now; a rank's own value may be None
