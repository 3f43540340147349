"""Real runs of a few steps, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.strategies.losses import read_losses

ROOT = Path(__file__).parents[2]
STEPS, HALF, MICRO_BATCHES = 20, 10, 4
SMALL = {
    "trainer": {"max_steps": STEPS, "gradient_clip_val": 0.1, "enable_progress_bar": False, "accelerator": "cpu"},
    "model": {"architecture": "tiny"},
    # flickr30k has no boxes; 5 samples of validation: rank zero gets a whole micro-batch, the other one sample
    "data": {
        "batch_size": 2,
        "global_batch_size": 2 * MICRO_BATCHES,
        "workers": 1,
        "limit_val": 5,
        "sources": {"coco": 1.0, "flickr30k": 1.0},
    },
    "validate_every": HALF,
    "keep_last": 5,
}
PATIENCE = 200  # seconds
EXPERIMENT = (str(ROOT / "experiments/pretrain/toy.yaml"), "--config", "strategies.yaml")


def run(*arguments: str) -> str:
    """Run a command to its end; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vle_lightning", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def fit(name: str, strategy: str, devices: int, *options: str) -> Path:
    """Train to the end; return the run folder."""
    folder = Path("checkpoints") / name
    run(
        *("fit", "--config", *EXPERIMENT, "--run_name", name),
        *("--trainer.strategy", strategy, "--trainer.devices", str(devices)),
        *("--trainer.callbacks+=tests.strategies.losses.LossRecord", f"--trainer.callbacks.folder={folder}/losses"),
        *options,
    )
    return folder


Losses = dict[tuple[int, int], float]  # by step and micro-batch


def second_halves(
    start: Path, name: str, strategy: str, devices: int, alone: Path, *options: str
) -> tuple[Losses, Losses]:
    """Go on from the middle of a run; return the losses of the second half, and those of one process."""
    half = start / f"step_{HALF:06}.ckpt"
    folder = fit(name, strategy, devices, "--ckpt_path", str(half), *options)
    whole, actual = read_losses(alone / "losses"), read_losses(folder / "losses")
    expected = {place: loss for place, loss in whole.items() if place[0] >= HALF}
    assert len(expected) == (STEPS - HALF) * MICRO_BATCHES
    return actual, expected
