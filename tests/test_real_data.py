"""Real photos and captions of two data sets: a run that is killed twice ends as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from datamodules.prepare import Options, convert
from datamodules.vocabulary import main as make_vocabulary
from tests.datamodules.prepare.raw_files import REAL

ROOT = Path(__file__).parents[1]
STEPS = 24
PATIENCE = 300  # seconds
OPTIONS = {
    "data.sources": "{coco: 2.0, flickr8k: 1.0}",
    "data.val_sources": "[coco, flickr8k]",
    "data.limit_val": "64",
    "data.batch_size": "8",
    "data.global_batch_size": "16",
    "data.workers": "2",
    "trainer.max_steps": str(STEPS),
    "trainer.max_epochs": "-1",
    "trainer.log_every_n_steps": "1",
    "trainer.enable_progress_bar": "false",
    "validate_every": str(STEPS),
    "save_every": "2",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason="the small real data sets are not beside the repository"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of COCO and Flickr8k with a tokenizer and classes of their own."""
    root = tmp_path_factory.mktemp("real")
    for name in ("coco", "flickr8k"):
        convert(name, REAL / name, root, Options(longest_side=256))
    folders = [str(root / name / "train") for name in ("coco", "flickr8k")]
    assert make_vocabulary([*folders, "--tokenizer", str(root / "tok"), "--classes", str(root / "classes.json")]) == 0
    return root


def start(root: Path, name: str, *more: str) -> subprocess.Popen[bytes]:
    options = {**OPTIONS, "data.root": root, "data.tokenizer": root / "tok", "data.classes": root / "classes.json"}
    options |= {"run_root": root / "runs", "run_name": name}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "vle_lightning", "fit"]
    command += ["--config", str(ROOT / "experiments" / "pretrain" / "coco_mini.yaml"), *arguments, *more]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def kill_behind(step: int, process: subprocess.Popen[bytes], checkpoint: Path) -> None:
    """Wait until the run saved its state at ``step`` or later, and kill it a moment later."""
    limit = time.monotonic() + PATIENCE
    while step_of(checkpoint) < step:
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < limit, "never saved"
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step of a checkpoint; -1 while there is none."""
    if not checkpoint.exists():
        return -1
    return int(opened(checkpoint)["global_step"])


def opened(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return content


def losses(folder: Path) -> dict[int, float]:
    """Return the logged training loss of each step."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def test_a_run_on_two_data_sets_that_is_killed_twice_ends_as_one_left_alone(root: Path) -> None:
    assert start(root, "alone").wait(PATIENCE) == 0
    killed, resume = root / "runs" / "killed", ("--ckpt_path", "last")
    kill_behind(4, start(root, "killed"), killed / "last.ckpt")
    kill_behind(step_of(killed / "last.ckpt") + 6, start(root, "killed", *resume), killed / "last.ckpt")
    assert step_of(killed / "last.ckpt") < STEPS
    assert start(root, "killed", *resume).wait(PATIENCE) == 0
    alone = root / "runs" / "alone"
    expected, actual = (opened(folder / "last.ckpt") for folder in (alone, killed))
    assert expected["global_step"] == actual["global_step"] == STEPS
    for name, weight in expected["state_dict"].items():
        assert torch.equal(actual["state_dict"][name], weight), name
    curve, resumed = losses(alone), losses(killed)
    assert set(curve) == set(resumed) == set(range(STEPS))
    assert resumed == curve
    scores, records = (
        [json.loads((folder / name).read_text()) for folder in (alone, killed)] for name in ("metrics.json", "run.json")
    )
    assert scores[0] == scores[1]
    seen = records[0]["samples_by_source"]
    assert seen == records[1]["samples_by_source"]
    captions = {name: manifest(root / name / "train")["samples"] for name in ("coco", "flickr8k")}
    share = 2 * captions["coco"] / (2 * captions["coco"] + captions["flickr8k"])
    assert seen["coco"] == pytest.approx(share * STEPS * 16, abs=16)


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content
