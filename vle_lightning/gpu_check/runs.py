"""The command line itself on the toy world: one strategy beside another, and a few steps as an experiment has them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from vle_lightning.gpu_check.report import NotRunError, Report

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "experiments" / "pretrain" / "toy.yaml"
WORLD = Path("data") / "toy"  # where `make data-toy` draws it
TEST_FOLDER = ROOT / "tests"
SCENES = ("--train-scenes", "160", "--val-scenes", "16")  # of a world for these checks alone
SHARDED = ("fsdp", "deepspeed_2", "deepspeed_3")
TOLERANCE = 1e-3  # of losses under another strategy, in float32
LAST_LINES = 12  # of what a process said before it failed


@dataclass(frozen=True)
class RunSettings:
    """Short runs of the toy experiment."""

    device: str
    strategy: str = "auto"
    steps: int = 4
    batch_size: int = 64  # the experiment's
    architecture: str = "toy"
    precision: str = "32-true"  # of comparisons: what differs is the strategy then, and not rounding


class ProcessError(Exception):
    """A process failed; the message is the end of what it said."""


def check_run(settings: RunSettings, shared: Path, report: Report) -> None:
    """Train the toy experiment for a few steps under a strategy; the losses are compared later (`compare_losses`).

    Args:
        settings: of the run.
        shared: a folder for what several parts need; it outlives this one.
        report: takes the losses.

    Raises:
        NotRunError: DeepSpeed is not installed.
        ProcessError: the run failed.
    """
    if settings.strategy.startswith("deepspeed") and find_spec("deepspeed") is None:
        raise NotRunError("deepspeed is not installed (make gpu-wheels packs it for a machine without network)")
    report.add(settings=asdict(settings))
    world = find_world(shared)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        losses = train(settings, world, Path(folder))
    report.add(losses=losses, seconds=time.perf_counter() - began)


def compare_losses(results: Mapping[str, dict[str, Any]]) -> None:
    """Compare the losses of each sharded strategy with those of DDP, both in float32, and mark what differs as failed.

    Args:
        results: of all parts so far, by name; changed in place.
    """
    expected = results.get("ddp", {}).get("figures", {}).get("losses")
    for name in SHARDED:
        result = results.get(name, {})
        losses = result.get("figures", {}).get("losses")
        if expected is None or losses is None:
            continue
        difference = max(abs(ours - one) / abs(one) for ours, one in zip(losses, expected, strict=True))
        result["figures"]["largest_relative_difference"] = difference
        if not difference <= TOLERANCE:  # not a number, too
            result["status"] = "failed"
            result["reason"] = f"the losses differ from ddp's by {difference:.1e}, more than {TOLERANCE:.0e}"


def check_tests(device: str, report: Report) -> None:
    """Run the tests that need a GPU; on the CPU they are collected only.

    Raises:
        NotRunError: the tests or pytest are not here.
    """
    if find_spec("pytest") is None or not TEST_FOLDER.is_dir():
        raise NotRunError("pytest or the folder tests/ is not here")
    only = ["--collect-only"] if device == "cpu" else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *only, str(TEST_FOLDER)]
    told = run(command, ROOT)
    report.add(settings={"device": device}, summary=told.strip().splitlines()[-1].strip("= "))


def find_world(shared: Path) -> Path:
    """Return the toy world: that of `make data-toy`, or a small one, drawn into ``shared`` once."""
    if (WORLD / "shards").is_dir():
        return WORLD.absolute()
    world, finished = shared / "world", shared / "world.drawn"
    if not finished.exists():
        run([sys.executable, "-m", "datamodules.toy", "--out", str(world), *SCENES], ROOT)
        finished.touch()
    return world


def train(settings: RunSettings, world: Path, runs: Path) -> list[float]:
    """Run the toy experiment in a process of its own; return the loss of each step."""
    options = {
        "run_name": settings.strategy,
        "run_root": runs,
        "model.architecture": settings.architecture,
        "data.root": world / "shards",
        "data.tokenizer": world / "tokenizer",
        "data.classes": world / "classes.json",
        "data.batch_size": settings.batch_size,
        "data.global_batch_size": settings.batch_size,
        "data.limit_val": settings.batch_size,
        "trainer.accelerator": "cpu" if settings.device == "cpu" else "gpu",
        "trainer.devices": 1,
        "trainer.strategy": settings.strategy,
        "trainer.precision": settings.precision,
        "trainer.max_steps": settings.steps,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    run([sys.executable, "-m", "vle_lightning", "fit", "--config", str(EXPERIMENT), *arguments], ROOT)
    return read_losses(runs / settings.strategy, settings.steps)


def read_losses(folder: Path, steps: int) -> list[float]:
    """Read the training losses that a run logged.

    Raises:
        ValueError: there is not one for each step.
    """
    losses = read_scalars(folder, "train/loss")
    if len(losses) != steps:
        raise ValueError(f"{len(losses)} losses were logged in {steps} steps")
    return losses


def read_scalars(folder: Path, tag: str) -> list[float]:
    """Return all values that a run logged under a name, first to last."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


def run(command: Sequence[str], folder: Path) -> str:
    """Run a process in a folder; return its standard output.

    Raises:
        ProcessError: it failed.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
        raise ProcessError(f"{' '.join(command[1:4])} ended with {done.returncode}: {told}")
    return done.stdout
