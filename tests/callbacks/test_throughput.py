"""How fast a run is, by clocks and counts that a test can set."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from tests.callbacks.sick import Run
from tests.callbacks.test_callbacks import TASK, make_batch, make_trainer
from tests.factories import pretrain_batch
from vle_lightning.callbacks.health import Health
from vle_lightning.callbacks.progress import ProgressFile
from vle_lightning.callbacks.steps import ends_step, is_logged
from vle_lightning.callbacks.throughput import Throughput, peak_flops
from vle_lightning.flops import FlopRecorder
from vle_lightning.tasks.pretrain import PretrainTask

CPU = SimpleNamespace(root_device=torch.device("cpu"))
GIB = 2**30


def set_clock(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    times = iter(seconds)
    monkeypatch.setattr("vle_lightning.callbacks.throughput.time.perf_counter", lambda: next(times))


def run_steps(watch: Throughput, trainer: Any, task: Any = TASK) -> Mapping[str, float]:  # noqa: ANN401
    """Make two steps of a micro-batch of eight."""
    watch.on_train_start(trainer, task)
    for step in (1, 2):
        watch.on_train_batch_start(trainer, task, make_batch(8), step - 1)
        trainer.global_step = step
        watch.on_train_batch_end(trainer, task, None, make_batch(8), step - 1)
    values: dict[str, float] = trainer.log.values
    return values


def test_throughput_is_samples_over_seconds_and_knows_what_was_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, 0, 1, 4, 5, 8, 8)  # start; data after 1 s, step ends at 4; data at 5, step ends at 8
    health = Health(tmp_path)
    health.gradient_norm = 3.0
    watch = Throughput(lambda steps: {"coco": 8 * steps}, health)
    values = run_steps(watch, make_trainer(log_every_n_steps=2, world_size=2, strategy=CPU))
    assert values == {
        "speed/samples_per_second": 4.0,
        "speed/samples_per_second_per_device": 2.0,
        "speed/data_wait_share": 0.25,
        "speed/gradient_norm": 3.0,
        "samples/coco": 16.0,
    }
    assert watch.samples_per_second == 4.0


def test_a_bad_step_has_no_norm_to_log(tmp_path: Path) -> None:
    trainer = make_trainer(log_every_n_steps=2, world_size=1, strategy=CPU)
    assert "speed/gradient_norm" not in run_steps(Throughput(lambda _: {}, Health(tmp_path)), trainer)


@pytest.mark.slow
def test_utilisation_is_the_models_flops_over_those_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch, peak = PretrainTask("tiny", {"itm": 1.0}), pretrain_batch(rows=4), 1e9
    shown: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: shown.__setitem__(name, value))
    recorder = FlopRecorder(task)
    recorder.start()
    task.training_step(batch)
    a_sample = sum(recorder.flops().values()) / 4
    monkeypatch.setattr("vle_lightning.callbacks.throughput.peak_flops", lambda *_: peak)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 2 * GIB)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda _: 3 * GIB)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda _: None)
    # the first step takes 4 s, then FLOPs are counted and the clock starts again; 4 samples a device in 10 s
    set_clock(monkeypatch, 0, 0, 4, 9, 9, 19, 19)
    cuda = SimpleNamespace(root_device=torch.device("cuda", 0))
    trainer = make_trainer(log_every_n_steps=2, world_size=2, strategy=cuda, precision="bf16-mixed")
    watch = Throughput(lambda _: {})
    watch.on_train_start(trainer, task)
    for step in (1, 2):
        watch.on_train_batch_start(trainer, task, batch, step - 1)
        task.training_step(batch)
        trainer.global_step = step
        watch.on_train_batch_end(trainer, task, None, batch, step - 1)
    values = trainer.log.values
    assert sum(values[f"flops/{part}_per_sample"] for part in ("text", "image", "fusion", "heads")) == a_sample
    assert values["speed/tflops_per_device"] == pytest.approx(a_sample * 4 / 10 / 1e12)
    assert values["speed/mfu"] == shown["mfu"] == pytest.approx(a_sample * 4 / 10 / peak)
    assert (values["speed/memory_allocated_gib"], values["speed/memory_reserved_gib"]) == (2, 3)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("NVIDIA H200", "bf16-mixed", 989.5e12),  # half of the sheet's 1,979, which is with sparsity
        ("NVIDIA H200 NVL", "16-mixed", 835.5e12),
        ("NVIDIA A100-SXM4-80GB", "bf16-true", 312e12),
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989.4e12),
        ("Some other card", "bf16-mixed", None),
        ("NVIDIA A100-SXM4-80GB", "transformer-engine", None),
    ],
)
@pytest.mark.filterwarnings("ignore:FLOPs not found")
def test_the_peak_is_that_of_dense_products(
    device: str, precision: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: device)
    assert peak_flops(torch.device("cuda", 0), precision) == expected


def test_steps_end_with_their_last_micro_batch_and_every_nth_is_logged() -> None:
    trainer = make_trainer(accumulate_grad_batches=2, log_every_n_steps=3, global_step=3)
    assert [ends_step(trainer, n) for n in range(4)] == [False, True, False, True]
    assert [is_logged(trainer, n) for n in range(2)] == [False, True]
    trainer.global_step = 4
    assert not is_logged(trainer, 1)
    trainer.log_every_n_steps = 0  # Lightning's way to log nothing
    assert not is_logged(trainer, 1)


class Reader(Callback):
    """Reads a JSON file as often as it may have changed."""

    def __init__(self, file: Path) -> None:
        self.file, self.seen = file, list[dict[str, Any]]()

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *_: object) -> None:
        if self.file.exists() and (content := json.loads(self.file.read_text())) not in self.seen:
            self.seen.append(content)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self.seen.append(json.loads(self.file.read_text()))


@pytest.mark.filterwarnings("ignore:nothing was learnt")
def test_progress_json_tells_how_far_a_run_is(tmp_path: Path) -> None:
    throughput = Throughput(lambda _: {})
    progress = ProgressFile(tmp_path, throughput)
    reader = Reader(progress.file)
    log = {"log_every_n_steps": 2, "logger": CSVLogger(tmp_path)}
    Run(tmp_path, {"2.0.0": "nan"}, more=[throughput, progress, reader], **log).fit()  # type: ignore[arg-type]
    seen = reader.seen
    assert [row["step"] for row in seen] == [2, 4, 5]
    for row in seen:
        assert row.keys() == {"step", "steps", "samples_per_second", "loss", "time", "devices"}
        assert (row["steps"], row["devices"]) == (5, 1)
        assert row["samples_per_second"] > 0
        assert math.isfinite(row["loss"])
    assert not list(tmp_path.glob("*.unfinished"))
