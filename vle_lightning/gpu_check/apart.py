"""A part in a process of its own: what it has found is read while it runs, and it ends with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeAlias

from vle_lightning.gpu_check.parts import Part
from vle_lightning.gpu_check.report import read_report
from vle_lightning.gpu_check.runs import ROOT

LEAST = 15.0  # seconds that a part needs to be worth its start
LOOK = 1.0  # seconds between two looks at what a part has found
LAST = 2000  # characters of what a part said before it died
Follow: TypeAlias = Callable[[dict[str, Any]], None]


def run_apart(
    part: Part, device: str, shared: Path, left: float, follow: Follow = lambda result: None
) -> dict[str, Any]:
    """Run a part in a process of its own, so that it can run out of memory or hang alone.

    Args:
        part: to run.
        device: cuda or cpu.
        shared: folder of what several parts need.
        left: seconds until the whole must end.
        follow: takes what the part has found so far, each time that it has found more.

    Returns:
        Status, figures, seconds, and the reason where it is not done.
    """
    if left < LEAST:
        return {"status": "not run", "reason": "the seconds for all parts were over", "figures": {}}
    limit, began = min(part.seconds, left), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        process = start(part.name, device, file, shared)
        try:
            told, reason = wait(process, limit, file, follow)
        finally:
            if process.poll() is None:  # this process is ended from outside: its part ends with it
                os.killpg(process.pid, signal.SIGKILL)
        result = read_report(file)
    if reason is None and "status" not in result:
        reason = f"its process ended with {process.returncode}: {told.strip()[-LAST:]}"
    if reason is not None:
        result = {"figures": {}, **result, "status": "failed", "reason": reason}
    return {**result, "seconds": round(time.perf_counter() - began, 1)}


def start(name: str, device: str, file: Path, shared: Path) -> subprocess.Popen[str]:
    """Start the process of a part, which writes its report into ``file``; its group is ended as a whole."""
    command = [sys.executable, "-m", "vle_lightning.gpu_check", "--device", device]
    command += ["--part", name, "--out", str(file), "--shared", str(shared)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait(process: subprocess.Popen[str], limit: float, file: Path, follow: Follow) -> tuple[str, str | None]:
    """Wait for a part, and end it where it takes longer than its limit.

    Returns:
        What it printed, and why it was ended.
    """
    deadline, seen = time.perf_counter() + limit, ""
    while True:
        left = max(deadline - time.perf_counter(), 0.0)
        try:
            told, _ = process.communicate(timeout=min(LOOK, left))
            return told, None
        except subprocess.TimeoutExpired:
            if left <= LOOK:
                os.killpg(process.pid, signal.SIGKILL)  # with all processes that it started
                told, _ = process.communicate()
                return told, f"it took more than {limit:.0f} seconds"
        found = read_report(file)
        if (now := str(found)) != seen and "status" not in found and found:
            seen = now
            follow({**found, "status": "failed", "reason": "the check was ended while this part ran"})


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let a request to end (SIGTERM) end this process as an exception, so that it ends its parts."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
