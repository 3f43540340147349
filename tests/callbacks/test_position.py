"""A position in an epoch, counted in other micro-batches."""

from __future__ import annotations

import pytest

from vle_lightning.callbacks.position import recount


@pytest.mark.parametrize(
    ("count", "before", "now", "expected"),
    [(12, 4, 2, 6), (11, 4, 2, 5), (12, 4, 4, 12), (6, 2, 8, 24), (5, 2, 8, 23), (0, 4, 2, 0), (3, 1, 4, 12)],
)
def test_whole_steps_are_recounted_and_an_open_micro_batch_stays_open(
    count: int, before: int, now: int, expected: int
) -> None:
    assert recount(count, before, now) == expected
