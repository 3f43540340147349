"""Steps and the search for the largest batch, on the CPU at tiny width."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vle_lightning.batch import IGNORED
from vle_lightning.gpu_check.report import Report
from vle_lightning.gpu_check.training import (
    Largest,
    Trainer,
    TrainingSettings,
    check_largest,
    check_training,
    find_largest,
)
from vle_lightning.gpu_check.workload import make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:.*self.trainer.*")  # scores go nowhere
TINY = TrainingSettings("tiny", "cpu", 4, 0.1, ceiling=16)


@pytest.mark.parametrize(("capacity", "found"), [(7, 0), (8, 8), (9, 8), (31, 24), (100, 96), (127, 120), (128, 128)])
def test_the_largest_multiple_of_eight_that_fits_is_found(capacity: int, found: int) -> None:
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= capacity

    assert find_largest(fits, 8, 4096, time.perf_counter() + 60) == Largest(found, True)
    assert len(tried) == len(set(tried)) <= 12


def test_the_search_ends_at_its_ceiling_and_its_deadline_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_largest(lambda rows: True, 8, 100, time.perf_counter() + 60) == Largest(64, False)
    assert find_largest(lambda rows: True, 8, 100, time.perf_counter() - 1) == Largest(0, False)
    clock = [0.0]  # by hand: a busy machine sleeps longer than it is told
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def slow(rows: int) -> bool:
        clock[0] += 0.05
        return rows <= 1000

    assert find_largest(slow, 8, 4096, 0.12) == Largest(32, False)


def test_a_batch_that_does_not_fit_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(TINY)

    def full(batch: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert trainer.fits(2)
    monkeypatch.setattr(trainer, "step", full)
    assert not trainer.fits(2)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [(), ("cheap",), ("text", "image", "fusion")], ids=["none", "cheap", "all"])
def test_the_largest_and_the_best_batch_are_reported(tmp_path: Path, recomputed: tuple[str, ...]) -> None:
    report = Report(tmp_path / "report.json")
    check_largest(TrainingSettings("tiny", "cpu", 4, 60.0, recomputed=recomputed, ceiling=8), report)
    figures = report.figures
    assert (figures["largest_batch"], figures["best_batch"]) == (8, 8)
    flops = sum(figures["flops_per_sample"].values())
    speed = figures["at_largest_batch/samples_per_second"]
    assert figures["at_largest_batch/tflops"] == pytest.approx(speed * flops / 1e12)


def test_a_check_reports_speed_flops_and_phases(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")
    check_training(TINY, report)
    figures = report.figures
    assert figures["settings"]["precision"] == "bf16-mixed"
    flops = sum(figures["flops_per_sample"].values())
    assert figures["tflops"] == pytest.approx(figures["samples_per_second"] * flops / 1e12)
    assert figures["samples_per_second"] == pytest.approx(4 / figures["step_seconds"])
    assert {"phase/forward/text", "phase/forward/mlm", "phase/clip", "phase/optimiser"} <= figures.keys()
    assert "utilisation" not in figures  # of no GPU


@pytest.mark.slow
def test_other_objectives_are_trained(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")
    check_training(replace(TINY, architecture="vlmo-tiny", objectives=("itc", "itm_hard", "mlm")), report)
    assert report.figures["steps"] >= 2
    assert "phase/forward/mlm" in report.figures


def test_the_loss_of_a_batch_falls_as_steps_are_taken() -> None:
    trainer = Trainer(TINY)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-2
    batch = trainer.batch(4)
    losses = [float(trainer.step(batch)) for _ in range(8)]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")
def test_compiled_steps_are_measured_too(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")
    check_training(TrainingSettings("tiny", "cpu", 4, 0.1, compiled=True), report)
    assert report.figures["steps"] >= 2


def test_pairs_are_of_the_sizes_of_the_experiments() -> None:
    batch = make_pairs(6, 224, 1000)
    assert batch.pixel_values.shape == (6, 3, 224, 224)
    assert batch.input_ids.shape == (6, 50)
    assert batch.partner.tolist() == [1, 2, 3, 3, 4, 5]
    assert ((batch.mlm_targets == IGNORED) == (batch.masked_input_ids == batch.input_ids)).all()
    assert (batch.boxes <= 1).all()
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all()
