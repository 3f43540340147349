"""Phases of a step: what is counted and timed is what ran."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from vle_lightning.gpu_check.phases import Phases, count_calls
from vle_lightning.gpu_check.rates import check_rates
from vle_lightning.gpu_check.report import Report, read_report

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """Takes a known time."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return values


def test_each_phase_has_its_own_time_and_hooks_leave_with_the_block() -> None:
    phases, module = Phases(CPU), Sleeper()
    with phases.forward_of({"sleeper": module}):
        with phases.phase("forward"):
            module(torch.ones(1))
            module(torch.ones(1))
        with phases.phase("backward"):
            pass
    seen = dict(phases.seconds)
    module(torch.ones(1))
    assert phases.seconds == seen  # a busy machine takes its time, but none of it is counted behind the block
    assert seen["forward"] >= seen["forward/sleeper"] >= 0.04 > seen["backward"]


def test_operators_of_a_step_are_counted() -> None:
    left, right = torch.ones(2), torch.ones(2)
    with count_calls(CPU) as calls:
        _ = left + right
        _ = left * right
    assert calls["operators"] == 2


def test_rates_are_positive(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    check_rates("cpu", Report(file))
    figures = read_report(file)["figures"]
    assert figures["matmul_tflops"] > 0
    assert figures["copy_gb_per_second"] > 0
