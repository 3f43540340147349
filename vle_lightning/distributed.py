"""What ranks say to each other beside gradients."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def gather_objects(value: T) -> list[T]:
    """Return every rank's ``value``, in the order of the ranks; all ranks must call this together."""
    if not has_met():
        return [value]
    values: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return cast("list[T]", values)  # each is filled now; a rank's own value may be None


def of_first_rank(value: T) -> T:
    """Return rank zero's ``value`` on every rank; all ranks must call this together."""
    if not has_met():
        return value
    values = [value]
    distributed.broadcast_object_list(values, 0)
    return values[0]


def any_rank(flag: Tensor) -> Tensor:
    """Return whether ``flag``, () bool, holds on any rank; all ranks must call this together.

    On a GPU the host does not wait for the answer.
    """
    if not has_met():
        return flag
    raised = flag.to(torch.int32)
    distributed.all_reduce(raised, distributed.ReduceOp.MAX)
    return raised.bool()


def has_met() -> bool:
    """Are there other ranks that this process has met?"""
    return distributed.is_available() and distributed.is_initialized()
