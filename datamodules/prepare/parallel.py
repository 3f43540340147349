"""Work in threads, in order, with a line of progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], values: Iterable[T], workers: int) -> Iterator[R]:
    """Map in threads, in order, with few results in memory at a time (unlike `Executor.map`)."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for value in values:
                waiting.append(pool.submit(function, value))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # after an error nobody wants the rest
                future.cancel()


def progress_line() -> Progress:
    """Return the progress display that all conversions share."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )
