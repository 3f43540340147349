"""A table of runs, from what lies in their folders."""

from __future__ import annotations

import json
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vle_lightning.callbacks.heartbeat import Phase
from vle_lightning.errors import UserError
from vle_lightning.slurm.requeue import REFUSED, Start, last_step, name_step, read_history
from vle_lightning.yaml_limits import read_yaml

PROGRESS, CONFIG, METRICS, BEATS = "progress.json", "config.yaml", "metrics.json", "ranks"
FRESH = 300  # seconds since a sign of life; a validation or a checkpoint may take minutes
HEADER = ("run", "state", "step", "samples/s", "loss", "ETA", "last checkpoint", "restarts")
QUEUE = {"RUNNING": "running", "PENDING": "queued", "COMPLETING": "stopping", "CONFIGURING": "starting"}


@dataclass(frozen=True)
class RunState:
    """What a run's folder says."""

    name: str
    state: str
    progress: Mapping[str, Any]  # of progress.json; {} before the first logged step
    batch: int | None  # samples of an optimiser step
    saved: int  # step of last.ckpt; NOTHING where there is none
    restarts: int

    def row(self) -> tuple[str, ...]:
        """Return what the table shows."""
        told = self.progress
        step, steps, rate = told.get("step"), told.get("steps"), told.get("samples_per_second")
        left = None
        if self.state == "running" and step is not None and steps and rate and self.batch:
            left = (steps - step) * self.batch / rate
        return (
            self.name,
            self.state,
            "-" if step is None else f"{step:,}/{steps:,}" if steps else f"{step:,}",
            _number(rate, ",.0f" if rate and rate >= 100 else ",.1f"),
            _number(told.get("loss"), ".4f"),
            duration(left),
            name_step(self.saved),
            str(self.restarts),
        )


def run_status(parser: ArgumentParser, arguments: Sequence[str]) -> int:
    """Print the table of all runs under a folder; return the exit code.

    Raises:
        UserError: the folder does not exist.
    """
    parser.add_argument("--run_root", type=Path, default=Path("checkpoints"), help="default: %(default)s")
    root = parser.parse_args(arguments).run_root
    if not root.is_dir():
        raise UserError(f"--run_root: there is no folder {root}; runs are where their run_root says")
    queue, now = jobs(), time.time()
    folders = [folder for folder in sorted(root.iterdir()) if is_run(folder)]
    if not folders:
        print(f"{root} holds no runs")
    else:
        print(table([HEADER, *(read_run(folder, queue, now).row() for folder in folders)]))
    return 0


def is_run(folder: Path) -> bool:
    """Does a folder hold a run, or what is left of one?"""
    return any((folder / name).is_file() for name in (PROGRESS, CONFIG, "job.sbatch"))


def read_run(folder: Path, queue: Mapping[str, str], now: float) -> RunState:
    """Read what a folder says of its run.

    Args:
        folder: of the run.
        queue: states of the user's jobs in Slurm, by the name of the run; {} without Slurm.
        now: Unix seconds.
    """
    progress, starts = _read_json(folder / PROGRESS), read_history(folder)
    state = run_state(folder, queue.get(folder.name), last_sign(folder, progress), starts, now)
    restarts = sum(start.requeued for start in starts)
    return RunState(folder.name, state, progress, batch_size(folder), last_step(folder), restarts)


def run_state(folder: Path, queued: str | None, sign: float, starts: Sequence[Start], now: float) -> str:
    """Say in a word how a run stands.

    Args:
        folder: of the run.
        queued: state of its job in Slurm.
        sign: when it last gave a sign of life, Unix seconds.
        starts: how its starts ended.
        now: Unix seconds.
    """
    metrics = folder / METRICS  # written at the end; a run that goes on leaves it behind
    if queued == "PENDING" and starts and starts[-1].requeued:
        return "requeued"
    if queued is not None:
        return QUEUE.get(queued, queued.lower())
    told = float(_read_json(folder / PROGRESS).get("time", 0.0))
    if metrics.is_file() and metrics.stat().st_mtime >= told - 1 and has_ended(folder):
        return "done"
    last = starts[-1] if starts else None
    if last is None or last.time < sign:  # it has not ended since
        return "running" if now - sign < FRESH else "stopped" if sign else "not started"
    if last.requeued:
        return "requeued" if now - last.time < FRESH else "stopped"
    return "refused" if last.code == REFUSED else "stopped"


def last_sign(folder: Path, progress: Mapping[str, Any]) -> float:
    """Return when a run last wrote its progress or a rank's heartbeat, Unix seconds; 0.0 for never."""
    beats = [file.stat().st_mtime for file in (folder / BEATS).glob("*.json")]
    return max([float(progress.get("time", 0.0)), *beats])


def has_ended(folder: Path) -> bool:
    """Have all ranks of a run's latest start said that they are through?"""
    signs = [_read_json(file) for file in (folder / BEATS).glob("*.json")]
    latest = max(signs, key=lambda sign: float(sign.get("time", 0.0)), default={}).get("session")
    return all(sign.get("phase") == Phase.ENDED for sign in signs if sign.get("session") == latest)


def batch_size(folder: Path) -> int | None:
    """Return the global batch of a run; None where no configuration says it."""
    if not (folder / CONFIG).is_file():
        return None
    try:
        settings: Any = read_yaml(folder / CONFIG)
        size = int(settings["data"]["global_batch_size"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return size


def jobs() -> dict[str, str]:
    """Return the states of the user's jobs by their names; {} without Slurm. A running one hides its successors."""
    try:
        done = subprocess.run(["squeue", "--me", "-h", "-o", "%T %j"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}
    pairs = [line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip()]
    return {name: state for state, name in sorted(pairs, key=lambda pair: pair[0] != "PENDING")}


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Align columns: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """Write seconds as ``2d 03h``, ``3h 07m`` or ``4m``."""
    if seconds is None:
        return "-"
    minutes = round(seconds / 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    return f"{days}d {hours:02}h" if days else f"{hours}h {rest:02}m" if hours else f"{rest}m"


def _read_json(file: Path) -> dict[str, Any]:
    """Read a small record; {} where there is none, or none that can be read: a table of runs shows the others."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
