from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import pytest

from vle_lightning.demo.batches import Batcher


def test_requests_that_wait_are_answered_as_one_batch() -> None:
    begun, go = Event(), Event()

    def answer(requests: Sequence[int]) -> list[int]:
        begun.set()
        assert go.wait(10)
        return [2 * request for request in requests]

    batcher = Batcher(answer, 4, Lock())
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher, 0)
        assert begun.wait(10)  # the first one is being computed; the others meet behind it
        others = [pool.submit(batcher, number) for number in range(1, 7)]
        while len(batcher.waiting) < 6:
            assert not first.done()
        go.set()
        assert first.result() == 0
        assert [other.result() for other in others] == [2, 4, 6, 8, 10, 12]
    assert list(batcher.sizes) == [1, 4, 2]


def test_a_bad_request_fails_alone() -> None:
    begun, go = Event(), Event()

    def answer(requests: Sequence[int]) -> list[float]:
        begun.set()
        assert go.wait(10)
        return [1 / request for request in requests]

    batcher = Batcher(answer, 8, Lock())
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher, 1)
        assert begun.wait(10)
        others = [pool.submit(batcher, request) for request in (2, 0, 4)]
        while len(batcher.waiting) < 3:
            assert not first.done()
        go.set()
        assert others[0].result() == 0.5
        assert others[2].result() == 0.25
        with pytest.raises(ZeroDivisionError):
            others[1].result()
    assert batcher(8) == 0.125  # and the next one is answered
