"""Plain Python objects from all ranks."""

from __future__ import annotations

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Return every rank's ``value``, in the order of the ranks; all ranks must call this together."""
    if not distributed.is_initialized():
        return [value]
    values: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return [value for value in values if value is not None]
