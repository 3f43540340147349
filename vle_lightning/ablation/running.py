"""Runs of a study: which there are, which are finished, and how several go on at a time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml

from vle_lightning.ablation.report import FINETUNE, PRETRAIN
from vle_lightning.ablation.rows import Row, Study, merge
from vle_lightning.errors import Interrupted, UserError
from vle_lightning.files import write_text
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.run_folder import AUTO, RunFolder

SETTINGS, LOGS = "settings", "logs"  # folders beside those of the runs
POLL = 0.2  # seconds
PATIENCE = 120.0  # seconds that a run has to save its step before it is killed


@dataclass(frozen=True)
class Job:
    """One training: a stage of a row under a seed.

    Attributes:
        row: that it belongs to.
        seed: of data, weights and dropout.
        stage: pretrain or finetune.
        root: folder of the run folders.
        options: the whole experiment.
        after: the job whose result it starts from.
        encoders_only: only the encoders are taken of that.
    """

    row: Row
    seed: int
    stage: str
    root: Path
    options: Mapping[str, Any]
    after: Job | None = None
    encoders_only: bool = False

    @property
    def name(self) -> str:
        """Return the name of the run."""
        return f"ablation-{self.row.name}-{self.seed}-{self.stage}"

    @property
    def folder(self) -> RunFolder:
        """Return the folder of the run."""
        return RunFolder(self.root / self.name)

    @property
    def settings(self) -> Path:
        """Return the file that holds the run's experiment."""
        return self.root / SETTINGS / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """Return the file that holds what the run prints."""
        return self.root / LOGS / f"{self.name}.log"

    @property
    def start(self) -> Path | None:
        """Return the checkpoint that the run starts from."""
        if self.after is None:
            return None
        return self.settings.with_suffix(".ckpt") if self.encoders_only else self.after.folder.best

    def described(self) -> str:
        """Return the content of the settings: it changes with the run's experiment, and with those it starts from."""
        head = f"# row {self.row.name}, seed {self.seed}: {self.stage}\n"
        if self.after is not None:
            before = hashlib.sha256(self.after.described().encode()).hexdigest()
            head += f"# starts from {self.after.name}, of settings {before[:16]}\n"
        return head + str(yaml.safe_dump(dict(self.options), sort_keys=False))

    @property
    def is_current(self) -> bool:
        """Does the run folder belong to these very settings?"""
        return self.settings.is_file() and self.settings.read_text(encoding="utf-8") == self.described()

    @property
    def is_finished(self) -> bool:
        """Has the run ended, with these settings and with its scores?"""
        return self.is_current and self.folder.record.is_file() and self.folder.metrics.is_file()


def jobs_of(study: Study, rows: Sequence[Row], root: Path, seeds: Sequence[int] | None = None) -> list[Job]:
    """Return the runs of some rows, each behind the one that it starts from.

    Args:
        study: all rows.
        rows: those to run.
        root: folder of the run folders.
        seeds: these alone; all of a row by default.
    """
    jobs: dict[str, Job] = {}
    for row in rows:
        for seed in study.seeds_of(row):
            if seeds is None or seed in seeds:
                for job in _jobs_of_seed(study, row, seed, root):
                    jobs.setdefault(job.name, job)
    return list(jobs.values())


def _jobs_of_seed(study: Study, row: Row, seed: int, root: Path) -> Iterator[Job]:
    before = trained = None
    if row.encoders_from is not None:
        before = _pretraining(study.rows[row.encoders_from], seed, root, None)
        yield before
    if source := study.pretraining_of(row):
        trained = _pretraining(source, seed, root, before)
        yield trained
    init = None if trained is None else str(trained.folder.best)
    yield Job(
        row,
        seed,
        FINETUNE,
        root,
        merge(row.options[FINETUNE], {"seed_everything": seed, "model": {"init": init}}),
        trained,
    )


def _pretraining(row: Row, seed: int, root: Path, before: Job | None) -> Job:
    options = merge(row.options[PRETRAIN], {"seed_everything": seed})
    if before is None:
        return Job(row, seed, PRETRAIN, root, options)
    job = Job(row, seed, PRETRAIN, root, options, before, encoders_only=True)
    return Job(row, seed, PRETRAIN, root, merge(options, {"model": {"init": str(job.start)}}), before, True)


def run_jobs(jobs: Sequence[Job], parallel: int) -> list[str]:
    """Run what is not finished, so many at a time; a failed run stops only those that start from it.

    Returns:
        The names of the runs that have failed, or could not start because another one has.

    Raises:
        Interrupted: a signal has ended the study; its runs have saved their step.
    """
    finished = {job.name for job in jobs if job.is_finished}
    waiting = [job for job in jobs if job.name not in finished]
    print(f"{len(jobs)} runs, {len(finished)} of them finished; {parallel} at a time", flush=True)
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}
    failed: list[str] = []
    with _signals():
        try:
            while waiting or running:
                for job in list(waiting):
                    if job.after is not None and job.after.name in failed:
                        waiting.remove(job)
                        failed.append(job.name)
                    elif len(running) < parallel and (job.after is None or job.after.name in finished):
                        waiting.remove(job)
                        try:
                            running[job.name] = (job, begin(job, parallel), time.monotonic())
                        except UserError as error:
                            failed.append(job.name)
                            print(f"{job.name} cannot start: {error}", flush=True)
                for name, (job, process, began) in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        is_good = process.returncode == 0 and job.is_finished
                        (finished.add if is_good else failed.append)(name)
                        told = f"{time.monotonic() - began:.0f} s" if is_good else f"failed: {reason(process, job.log)}"
                        print(f"[{len(finished)}/{len(jobs)}] {name}: {told}", flush=True)
                time.sleep(POLL)
        finally:
            end([process for _, process, _ in running.values()])
    return failed


def begin(job: Job, parallel: int) -> subprocess.Popen[bytes]:
    """Start a run, or go on with it where an earlier start was interrupted."""
    goes_on = job.is_current
    if not goes_on:
        job.folder.set_aside()
        write_text(job.settings, job.described())
    if job.encoders_only and job.start is not None and not (goes_on and job.start.exists()):
        keep_encoders(job)
    command = [sys.executable, "-m", "vle_lightning", "fit", "--config", str(job.settings)]
    command += ["--run_name", job.name, "--run_root", str(job.root), "--trainer.enable_progress_bar", "false"]
    command += ["--ckpt_path", AUTO] if goes_on else []
    job.log.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // parallel))}
    with job.log.open("ab" if goes_on else "wb") as log:  # in a session of its own, which Ctrl-C does not reach
        return subprocess.Popen(
            command, env={**os.environ, **threads}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let runs save their step and end; kill those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def keep_encoders(job: Job) -> None:
    """Write the checkpoint of a model whose encoders are those of another run, and all else is drawn at random.

    Raises:
        UserError: the two models have different encoders.
    """
    assert job.after is not None
    assert job.start is not None
    trained, _ = from_pretrained(job.after.folder.best)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        model = read_architecture(job.options["model"]["architecture"]).build()
    for name, encoder in model.encoders().items():
        encoder.load_state_dict(trained.encoders()[name].state_dict())
    torch.save({"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, job.start)


def reason(process: subprocess.Popen[bytes], log: Path) -> str:
    """Say why a run has failed: what killed it, or what it printed last."""
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return f"it was killed ({name}); the same command goes on with it"
    return last_line(log)


def last_line(log: Path) -> str:
    """Return the last line that a run printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return f"{lines[-1] if lines else 'it printed nothing'} ({log})"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _signals() -> Iterator[None]:
    """Turn a scheduler's signal and Ctrl-C into an exception, so that the runs are ended in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("the study was interrupted; the same command goes on with it")

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
