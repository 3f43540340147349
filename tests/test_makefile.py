"""What make would run, without running it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def planned(*arguments: str) -> str:
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("task", ["vcr", "vqa", "nlvr2", "snli-ve", "retrieval"])
def test_each_experiment_starts_from_the_checkpoint_that_it_names(task: str) -> None:
    assert "--model.init" not in planned(f"finetune-{task}")


def test_a_checkpoint_that_is_named_is_where_all_start() -> None:
    assert planned("finetune-vcr", "PRETRAINED=some/best.ckpt").count("--model.init some/best.ckpt") == 1
