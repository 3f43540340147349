"""What follows the end of a run's job: start again, or not, and why.

The batch script asks once srun has returned. The standard library alone is imported here: at the time limit Slurm
leaves a job ``KillWait`` seconds (30 by default).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

DONE, REFUSED, HUNG, INTERRUPTED = 0, 2, 70, 75  # exit codes of `fit`; 70 and 75 as in sysexits.h
MOST_STUCK = 3  # starts in a row that may end without a newer checkpoint
NOTHING, UNNAMED = -1, 0  # the step of a run that has saved nothing; of a checkpoint whose name tells no step
HISTORY, REASON, LAST = "starts.jsonl", "refused.txt", "last.ckpt"
STEP = re.compile(r"step_(\d+)")
MEANING = {
    HUNG: "a rank hung, or met an unexpected error",  # hang.txt, or the file that the output names
    INTERRUPTED: "a signal (the time limit, or preemption) interrupted the run",
}


@dataclass(frozen=True)
class Start:
    """How one start of a job ended: a line of ``starts.jsonl``."""

    job: str
    time: float  # of its end, Unix seconds
    code: int  # of srun, or 2
    step: int  # of last.ckpt; NOTHING where there is none
    requeued: bool
    reason: str


class Decision(NamedTuple):
    """Shall the job start again?"""

    requeue: bool
    reason: str


def decide(code: int, step: int, earlier: Sequence[int], is_cancelled: bool) -> Decision:
    """Decide whether a job that has ended starts again.

    Args:
        code: with which the run ended.
        step: of its last checkpoint now; NOTHING if there is none.
        earlier: the same, at the end of each earlier start of the job.
        is_cancelled: a user has cancelled the job.
    """
    if code == DONE:
        return Decision(False, "the run is done")
    if code == REFUSED:
        return Decision(False, "the run was refused; fix that and submit again")
    if is_cancelled:
        return Decision(False, f"the job was cancelled; last checkpoint: {name_step(step)}; submit it again to go on")
    if (stuck := starts_without_progress([*earlier, step])) >= MOST_STUCK:
        return Decision(
            False,
            f"given up: {explain(code)}, and the last checkpoint is still {name_step(step)} after {stuck} starts in a "
            "row; the reason is further up in this file. Mend it and submit again",
        )
    return Decision(True, f"{explain(code)}; the job starts again from the last checkpoint: {name_step(step)}")


def starts_without_progress(steps: Sequence[int]) -> int:
    """Count the starts at the end that did not advance.

    Args:
        steps: of the last checkpoint, at the end of each start.
    """
    advanced = [now > before for before, now in zip([NOTHING, *steps], steps, strict=False)]
    return next((count for count, moved in enumerate(reversed(advanced)) if moved), len(advanced))


def explain(code: int) -> str:
    """Say what an exit code means."""
    if code in MEANING:
        return MEANING[code]
    if code > 128 and code - 128 in {number.value for number in signal.Signals}:
        return f"the run was ended by {signal.Signals(code - 128).name}"
    return f"the run crashed with code {code}"


def name_step(step: int) -> str:
    """Say which checkpoint a step is."""
    return {NOTHING: "none", UNNAMED: "no step in its name"}.get(step, f"step {step:,}")


def last_step(run: Path) -> int:
    """Return the step of a run's last checkpoint, by the name that ``last.ckpt`` points to; NOTHING if none."""
    link = run / LAST
    if not link.exists():  # a link to nothing, too
        return NOTHING
    found = STEP.search(link.resolve().name)
    return int(found.group(1)) if found else UNNAMED


def read_history(run: Path) -> list[Start]:
    """Return how the earlier starts of a run ended, the oldest first; lines that are damaged are left out."""
    file = run / HISTORY
    starts = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            start = Start(**json.loads(line))
            if type(start.code) is int and type(start.step) is int and isinstance(start.reason, str):
                starts.append(start)
    return starts


def was_cancelled(job: Mapping[str, str]) -> bool:
    """Has a user cancelled the job?

    From the cancellation on Slurm shows no state but COMPLETING, as it does at the time limit and at preemption.

    Args:
        job: what ``scontrol show job`` says of it.
    """
    if not job or job["JobState"] in ("RUNNING", "PREEMPTED", "TIMEOUT") or job.get("PreemptTime", "None") != "None":
        return False
    limit = seconds(job.get("TimeLimit", ""))
    return limit is None or (seconds(job.get("RunTime", "")) or 0) < limit


def seconds(told: str) -> int | None:
    """Turn Slurm's ``[days-]hours:minutes:seconds`` into seconds; None for UNLIMITED and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", told)
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def job_facts(job: str) -> dict[str, str]:
    """Return what the controller knows of a job; {} if it does not answer."""
    done = _scontrol("show", "job", "-o", job)
    return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)


def run_requeue(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Decide about the job that calls, write that down, and requeue it.

    Args:
        parser: to fill.
        arguments: the command line behind ``requeue``.

    Returns:
        0; 1 where Slurm refuses to requeue.
    """
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--code", type=int, required=True, help="with which srun ended")
    parser.add_argument("--job", default=os.environ.get("SLURM_JOB_ID", ""), help="default: the one this runs in")
    options = parser.parse_args(arguments)
    run, job = options.run, options.job
    code = REFUSED if options.code and (run / REASON).exists() else options.code
    earlier = [start.step for start in read_history(run) if start.job == job]
    step = last_step(run)
    cancelled = code not in (DONE, REFUSED) and was_cancelled(job_facts(job))
    decision = decide(code, step, earlier, cancelled)
    if code == REFUSED and (run / REASON).exists():
        decision = Decision(False, f"{decision.reason}: {(run / REASON).read_text(encoding='utf-8').strip()}")
    if not write_down(run, Start(job, time.time(), code, step, *decision)) and decision.requeue:
        # what cannot be counted must not go on for ever
        unrecorded = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1 - len(earlier)
        if unrecorded >= MOST_STUCK:
            decision = Decision(
                False, f"given up: {explain(code)}, and {run} could not be written to {unrecorded} times"
            )
    print(f"slurm: job {job}: {decision.reason}", flush=True)  # requeuing ends this process
    if not decision.requeue:
        return 0
    done = _scontrol("requeue", job)
    if done.returncode:
        print(f"slurm: job {job} cannot be requeued ({done.stderr.strip()}); submit it again by hand", flush=True)
    return min(done.returncode, 1)


def write_down(run: Path, start: Start) -> bool:
    """Add a start to the history; False, with a line on why, if that cannot be written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        with (run / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(start)) + "\n")
    except OSError as error:
        print(f"slurm: {run / HISTORY} cannot be written: {error}", flush=True)
        return False
    return True


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "there is no scontrol here")
