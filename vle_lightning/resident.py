"""Resident memory: what this process holds now and held at most, and peaks of work in processes of its own.

The kernel's ``ru_maxrss`` (getrusage(2)) is no measure of either: Linux hands a process's peak on across fork and exec,
so that a child, spawned ones too, starts with that of its parent. ``VmHWM`` (proc(5)) belongs to the memory of the
program alone.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Mapping
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GIB = 2**30


def current_bytes() -> float:
    """Return what is resident now; NaN where there is no ``/proc``."""
    return _read("VmRSS")


def peak_bytes() -> float:
    """Return the most that was resident since this program began or `reset_peak`; NaN where there is no ``/proc``."""
    return _read("VmHWM")


def reset_peak() -> None:
    """Let the peak begin anew at what is resident now."""
    CLEAR.write_text("5", encoding="ascii")


def peaks_apart(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Do each piece of work in a process of its own, which does nothing else; return their peaks in GiB.

    Args:
        ways: the work by name; it is pickled.
    """
    peaks = {}
    for name, work in ways.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # one after the other: memory is shared
            peaks[name] = pool.apply(_peak_of, (work,)) / GIB
    return peaks


def _peak_of(work: Callable[[], object]) -> float:
    work()
    return peak_bytes()


def _read(field: str) -> float:
    if not STATUS.exists():  # not Linux
        return float("nan")
    found = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) * 1024 if found else float("nan")
