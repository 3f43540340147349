"""Columns of one entry a sample, as plain lists: read, compared in length, averaged.

The means do not depend on the order of their values, so that no number of ranks changes the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence, Sized
from typing import TypeVar

from torch import Tensor

from vle_lightning.errors import UserError

K = TypeVar("K", bound=Hashable)


def listed(column: Sequence[int] | Tensor) -> Sequence[int]:
    """Return a column as plain numbers; a tensor (N,) may lie on any device."""
    return [int(value) for value in column.tolist()] if isinstance(column, Tensor) else column


def mean(values: Iterable[float]) -> float:
    """Average ``values``; NaN when there are none, as nothing was judged."""
    terms = list(values)
    return math.fsum(terms) / len(terms) if terms else math.nan


def mean_by(groups: Iterable[K | None], values: Iterable[float]) -> dict[K, float]:
    """Average the values of each group, in the order of the groups' names; a value of no group (None) is left out.

    Raises:
        ValueError: there are more values than groups, or the other way round.
    """
    members: dict[K, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        if group is not None:
            members.setdefault(group, []).append(value)
    return {group: mean(members[group]) for group in sorted(members, key=str)}


def check_lengths(**columns: Sized) -> None:
    """Refuse lists that should hold one entry a sample each, but differ in length.

    Raises:
        UserError: names the lists and how long they are.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(
            f"one entry a sample was expected in each list, but there are "
            f"{', '.join(f'{length} {name}' for name, length in lengths.items())}"
        )
