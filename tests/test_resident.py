"""Peaks of resident memory are of the process that is asked, whatever its parent held."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from vle_lightning.resident import GIB, current_bytes, peak_bytes, peaks_apart, reset_peak

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
MIB = 2**20


def hold(size: int) -> None:
    """Fill some memory, and let it go."""
    bytearray(b"x") * size


def test_a_child_under_a_parent_that_held_far_more_reports_its_own_peak() -> None:
    hold(GIB)
    peaks = peaks_apart({"idle": partial(hold, 0), "holding": partial(hold, 256 * MIB)})
    assert peak_bytes() > GIB
    assert peaks["idle"] < 0.25  # what `ru_maxrss` says of it is over 1
    assert peaks["holding"] - peaks["idle"] == pytest.approx(0.25, rel=0.1)


def test_the_peak_stays_until_it_is_reset() -> None:
    hold(256 * MIB)
    before = current_bytes()
    assert peak_bytes() >= before + 200 * MIB
    reset_peak()
    assert peak_bytes() == pytest.approx(current_bytes(), abs=16 * MIB)
