"""Timing of alternatives: they take turns, and each one's best time counts. A matrix product is the yardstick."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

Measurement: TypeAlias = dict[str, float]  # name: seconds, GiB or a ratio
PRODUCT = 2048  # rows and columns: large enough for the processor's best rate, 17 GFLOP


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


def product_seconds(dtype: torch.dtype = torch.float32, duration: float = 2.0) -> float:
    """Multiply random matrices for some seconds; return the seconds of the fastest product."""
    left, right = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
    seconds: list[float] = []
    started = time.perf_counter()
    while not seconds or time.perf_counter() - started < duration:
        seconds.append(seconds_of(lambda: left @ right))
    return min(seconds)


def share_of_product_rate(name: str, flops: float, seconds: float, product: float) -> Measurement:
    """Say which share of the rate of the machine's large matrix products some work reaches.

    Args:
        name: of the work.
        flops: that it needs.
        seconds: that it took.
        product: `product_seconds` in the same precision.
    """
    rate = 2 * PRODUCT**3 / product
    return {f"{name}_product_gflops_per_second": rate / 1e9, f"{name}_share_of_product_rate": flops / seconds / rate}
