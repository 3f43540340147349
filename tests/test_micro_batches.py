"""Real processes: ranks change nothing, and a killed run continues as if it had lived."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml

from datamodules.index import Column, index_path
from tests.conftest import DOT
from tests.slurm.cluster import free_ports
from vle_lightning.cli import main

ROOT = Path(__file__).parents[1]
PRETRAIN, VCR = (ROOT / "experiments" / name for name in ("pretrain/toy.yaml", "vcr/toy_q2a.yaml"))
SMALL = {
    "trainer": {"max_steps": 3, "gradient_clip_val": 0.1, "enable_progress_bar": False},
    "model": {"architecture": "tiny"},
    # 4 micro-batches a step; 3 of validation, the last one short, so that the second of two ranks gets a filler
    "data": {"batch_size": 4, "global_batch_size": 16, "workers": 1, "limit_val": 9},
}
TWO_RANKS = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
NO_WORKERS = ("--data.workers", "0")  # which change nothing (datamodules/test_base.py)
PATIENCE = 90  # seconds


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    (workplace / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as change:
        change.chdir(workplace)
        change.setenv("PYTHONPATH", str(ROOT))
        change.setenv("OMP_NUM_THREADS", "1")  # as in the process of the tests
        change.setattr("vle_lightning.callbacks.pictures.render", lambda picture: DOT)
        yield


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Path:
    """The run folder of one process."""
    assert main(fit(PRETRAIN, "alone", *NO_WORKERS)) == 0
    return workplace / "checkpoints" / "alone"


def fit(experiment: Path, name: str, *options: str) -> list[str]:
    return ["fit", "--config", str(experiment), "--config", "small.yaml", "--run_name", name, *options]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "vle_lightning", *arguments], start_new_session=True)


def finish(arguments: list[str]) -> int:
    """Run to the end: two ranks in processes of their own, one rank here, which saves a start of Python."""
    return start(arguments).wait(PATIENCE) if TWO_RANKS[-1] in arguments else main(arguments)


def in_two_processes(arguments: list[str]) -> list[int | None]:
    """Run the ranks of a job as a scheduler starts them, each in a process of its own."""
    context = multiprocessing.get_context("forkserver")  # imports once, and no thread of the tests comes along
    context.set_forkserver_preload(["tests.test_micro_batches"])
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    ranks = [context.Process(target=as_rank, args=(rank, job, Path.cwd(), arguments)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE)
        rank.kill()
    return [rank.exitcode for rank in ranks]


def as_rank(rank: int, job: dict[str, str], folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    os.environ |= job | {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    with patch("vle_lightning.callbacks.pictures.render", lambda picture: DOT):
        raise SystemExit(main(arguments))


def opened(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return content


def test_two_ranks_train_and_validate_as_one_does(alone: Path) -> None:
    assert in_two_processes(fit(PRETRAIN, "two", *TWO_RANKS, *NO_WORKERS)) == [0, 0]
    together = alone.with_name("two")
    expected, actual = (opened(folder / "last.ckpt")["state_dict"] for folder in (alone, together))
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, rtol=1e-3, atol=2e-5, msg=name)
    scores, shared = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, together))
    assert shared == pytest.approx(scores, rel=1e-3)
    assert json.loads((together / "run.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_the_run_that_others_are_compared_with_does_learn(alone: Path) -> None:
    before = alone.with_name("before")
    assert main(fit(PRETRAIN, "before", "--trainer.max_steps", "1")) == 0
    first, last = (opened(folder / "last.ckpt")["state_dict"] for folder in (before, alone))
    moved = [(first[name] - last[name]).abs().max() for name in first if first[name].is_floating_point()]
    assert max(moved) > 1e-3  # far above the tolerance of the comparison


@pytest.fixture(scope="module")
def damaged(workplace: Path) -> Path:
    """A copy of the shards in which every fifteenth picture is not a picture."""
    root = workplace / "damaged"
    shutil.copytree(workplace / "data" / "toy" / "shards", root)
    for shard in root.glob("*/train/*.tar"):
        rows = np.load(index_path(shard))
        with shard.open("r+b") as file:
            for offset in np.unique(rows[:, Column.IMAGE_OFFSET])[::15].tolist():
                file.seek(offset)
                file.write(b"no picture")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_on_damaged_data_continues_bit_for_bit(ranks: int, damaged: Path, workplace: Path) -> None:
    options = ["--trainer.max_steps", "16", "--save_every", "1", "--data.root", str(damaged)]
    options += ["--data.workers", "2", *(TWO_RANKS if ranks == 2 else ())]
    straight, killed = (workplace / "checkpoints" / f"{name}_{ranks}" for name in ("straight", "killed"))
    assert finish(fit(PRETRAIN, straight.name, *options)) == 0
    kill_after_first_save(start(fit(PRETRAIN, killed.name, *options)), killed / "last.ckpt")
    left = opened(killed / "last.ckpt")
    assert 0 < left["global_step"] < 16
    assert finish(fit(PRETRAIN, killed.name, *options, "--ckpt_path", "last")) == 0
    expected, actual = (opened(folder / "last.ckpt") for folder in (straight, killed))
    assert actual["global_step"] == expected["global_step"] == 16
    assert all(torch.equal(actual["state_dict"][name], weight) for name, weight in expected["state_dict"].items())
    records = [json.loads((folder / "run.json").read_text()) for folder in (straight, killed)]
    assert records[0]["skipped"]["train"]["damaged sample"] > 0
    for key in ("skipped", "samples_seen", "samples_by_source"):
        assert records[0][key] == records[1][key], key


@pytest.mark.slow
@pytest.mark.parametrize("change", [("--data.batch_size", "8"), TWO_RANKS], ids=["micro-batches", "ranks"])
def test_a_run_goes_on_with_other_micro_batches_and_ranks(change: tuple[str, ...], workplace: Path) -> None:
    whole = ["--trainer.max_epochs", "2", "--trainer.max_steps", "-1", "--save_every", "1"]
    straight, changed = (workplace / "checkpoints" / f"{name}_{change[1]}" for name in ("whole", "changed"))
    assert main(fit(PRETRAIN, straight.name, *whole)) == 0
    steps = opened(straight / "last.ckpt")["global_step"]
    kill_after_first_save(start(fit(PRETRAIN, changed.name, *whole)), changed / "last.ckpt")
    assert finish(fit(PRETRAIN, changed.name, *whole, "--ckpt_path", "last", *change)) == 0
    expected, actual = (opened(folder / "last.ckpt") for folder in (straight, changed))
    assert actual["global_step"] == steps
    records = [json.loads((folder / "run.json").read_text()) for folder in (straight, changed)]
    assert records[0]["samples_by_source"] == records[1]["samples_by_source"]
    assert actual["epoch"] == expected["epoch"]
    if change == TWO_RANKS:  # the micro-batches are the same
        for name, weight in expected["state_dict"].items():
            torch.testing.assert_close(actual["state_dict"][name], weight, rtol=1e-2, atol=1e-3, msg=name)


def kill_after_first_save(process: subprocess.Popen[bytes], checkpoint: Path) -> None:
    limit = time.monotonic() + PATIENCE
    while not checkpoint.exists():
        assert process.poll() is None, "ended before it saved"
        assert time.monotonic() < limit, "never saved"
        time.sleep(0.01)
    time.sleep(0.1)  # somewhere in a later step
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_two_ranks_predict_each_question_once(workplace: Path) -> None:
    options = ["--model.init", "null", "--data.global_batch_size", "8"]
    assert main(fit(VCR, "vcr_alone", *options)) == 0
    assert finish(fit(VCR, "vcr_two", *options, *TWO_RANKS)) == 0
    runs = workplace / "checkpoints"
    one, two = (json.loads((runs / name / "predictions.json").read_text()) for name in ("vcr_alone", "vcr_two"))
    assert [row["id"] for row in one] == [row["id"] for row in two]
    assert len({row["id"] for row in two}) == len(two)
