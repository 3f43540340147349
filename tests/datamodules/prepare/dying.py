"""Conversions that are killed: ``python -m tests.datamodules.prepare.dying FOLDER`` kills some at many moments.

The moments are file operations (Python's audit events), so that each state of the folder that a kill can leave
comes up. ``FOLDER/raw/SET`` are the raw files; ``FOLDER/SET/MOMENT`` is what a killed conversion left and two
others finished, of which one was killed as well.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from datamodules.prepare import Options, convert

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
TRAIN = Options(splits=("train",), workers=1)
OPTIONS = {"coco": replace(TRAIN, samples_per_shard=4), "conceptual_captions": TRAIN}
EVERY = 17  # moments; near the end all are tried
LAST = 6


def in_child(name: str, src: Path, out: Path, die_at: int | None, counter: Path | None = None) -> int:
    """Convert in a child process that kills itself at a moment; return how it ended, 0 or minus the signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda fd: None  # slow, and a killed process loses no bytes that it wrote
    sys.addaudithook(hook)
    try:
        convert(name, src, out, OPTIONS[name])
        if counter is not None:
            counter.write_text(str(seen))
        os._exit(0)
    finally:
        os._exit(1)


def kill_and_finish(name: str, src: Path, out: Path) -> None:
    """Kill conversions of a data set, and finish them."""
    out.mkdir()
    if in_child(name, src, out / "whole", None, out / "count"):
        raise SystemExit(f"{name}: the conversion fails by itself")
    moments = int((out / "count").read_text())
    for moment in sorted({*range(1, moments, EVERY), *range(moments - LAST, moments + 1)}):
        folder = out / str(moment)
        first = in_child(name, src, folder, moment)
        again = in_child(name, src, folder, moment // 2 + 1)
        last = in_child(name, src, folder, None)
        if first != -signal.SIGKILL or again not in (0, -signal.SIGKILL) or last:
            raise SystemExit(f"{name}, moment {moment}: {first}, {again}, {last}")


if __name__ == "__main__":
    for data_set in OPTIONS:
        kill_and_finish(data_set, Path(sys.argv[1]) / "raw" / data_set, Path(sys.argv[1]) / data_set)
