"""Work in several processes, in order; with one process it happens here."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


class Workers:
    """A pool of processes whose results do not depend on how many they are."""

    def __init__(self, processes: int) -> None:
        """Start the processes, if it is more than one."""
        # spawn: a forked child would inherit the parent's threads in an unknown state
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, context) if processes > 1 else None

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the processes."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Given], Made], items: Sequence[Given], together: int) -> list[Made]:
        """Return the function's values in the items' order; a process takes ``together`` items at a time."""
        if self._pool is None:
            return [function(item) for item in items]
        parts = [items[start : start + together] for start in range(0, len(items), together)]
        return list(itertools.chain.from_iterable(self._pool.map(functools.partial(_each, function), parts)))


def _each(function: Callable[[Given], Made], items: Sequence[Given]) -> list[Made]:
    return [function(item) for item in items]
