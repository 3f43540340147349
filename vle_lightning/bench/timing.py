"""Timing of alternatives: they take turns, and each one's best time counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

Measurement: TypeAlias = dict[str, float]  # name: seconds, GiB or a ratio


def seconds_of(work: Callable[[], object]) -> float:
    """Do the work once and return the seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best_of_alternating(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Let the ways take turns ``repeats`` times; return the best seconds of each.

    A machine that slows down meets all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, measure in ways.items():
            seconds[name].append(measure())
    return {name: min(times) for name, times in seconds.items()}
