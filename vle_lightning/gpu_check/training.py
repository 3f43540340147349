"""Steps of pre-training at full size: how long one takes, how much memory, and how large a batch may be."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from vle_lightning.batch import PretrainBatch
from vle_lightning.callbacks.throughput import peak_flops
from vle_lightning.flops import FlopRecorder
from vle_lightning.gpu_check.device import peak_memory, reset_peaks, synchronise
from vle_lightning.gpu_check.phases import Phases, count_calls
from vle_lightning.gpu_check.report import Report
from vle_lightning.gpu_check.workload import CLASSES, TOKENS, make_pairs
from vle_lightning.optim import OptimConfig, make_optimizer
from vle_lightning.performance import checkpoint_activations, compile_layers
from vle_lightning.strategies.bf16 import MasterWeightPrecision
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask

PRECISION: Final = "bf16-mixed"
CLIP = 1.0  # norm of the whole gradient, the command line's default
STEPS = 1000  # of the schedule, of which few are taken
GRAIN = 8  # a largest batch is a multiple of this


@dataclass(frozen=True)
class TrainingSettings:
    """One way to train one model."""

    architecture: str
    device: str
    batch_size: int  # for the timed steps; the experiment file's
    seconds: float  # for all that is measured, without building and compiling
    compiled: bool = False
    masters: bool = False  # bf16-true instead of bf16-mixed
    recomputed: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()  # VLE's four if none is named
    ceiling: int = 4096  # no larger batch is tried


class Largest(NamedTuple):
    """The largest batch that was seen to fit."""

    size: int
    is_proven: bool  # a batch of GRAIN more did not fit; else time or the ceiling ended the search


class Trainer:
    """A task and its optimiser, as the command line trains it on one device."""

    def __init__(self, settings: TrainingSettings) -> None:
        """Build the model with random weights."""
        torch.manual_seed(0)
        self.device = torch.device(settings.device)
        with self.device:  # drawing the weights of a large model on the CPU takes longer than all of its steps
            weights = dict.fromkeys(settings.objectives, 1.0) or None
            self.task = PretrainTask(settings.architecture, weights, classes=CLASSES).train()
        self.task.to(self.device)
        model = self.task.model
        self.image_size, self.vocabulary = model.config.image_size, model.vocabulary
        self.tokens = min(TOKENS, model.max_tokens)
        checkpoint_activations(self.task.model, settings.recomputed)
        if settings.compiled:
            compile_layers(self.task.model)
        self.precision = MasterWeightPrecision() if settings.masters else MixedPrecision(PRECISION, self.device.type)
        self.precision.convert_module(self.task)
        self.optimizer, _ = make_optimizer(self.task, OptimConfig(), STEPS)

    def batch(self, rows: int) -> PretrainBatch:
        """Draw a batch, on the device."""
        return make_pairs(rows, self.image_size, self.vocabulary, self.tokens).to(self.device)

    def step(self, batch: PretrainBatch, phases: Phases | None = None) -> torch.Tensor:
        """Forward in bf16, backward, clip, AdamW; return the loss ()."""
        phase = (lambda _: nullcontext()) if phases is None else phases.phase
        with phase("forward"), self.precision.forward_context():
            loss = self.task.step(batch, Stage.TRAIN)
        with phase("backward"):
            self.precision.backward(loss, self.task, None)
        with phase("clip"):
            nn.utils.clip_grad_norm_(self.task.parameters(), CLIP)
        with phase("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def modules(self) -> dict[str, nn.Module]:
        """Return what the encoder is made of, and the objectives, by name."""
        return dict([*self.task.model.named_children(), *self.task.objectives.named_children()])

    def fits(self, rows: int) -> bool:
        """Say whether a step with so many pairs fits into the device's memory."""
        reset_peaks(self.device)
        try:
            self.step(self.batch(rows))
            synchronise(self.device)
        except torch.OutOfMemoryError:
            self.optimizer.zero_grad()
            return False
        return True


def check_training(settings: TrainingSettings, report: Report) -> None:
    """Measure steps, and where their time goes; see `TrainingSettings`."""
    trainer = begin(settings, report)
    batch = trainer.batch(settings.batch_size)
    flops = take_first_step(trainer, batch, report)
    report.add(**measure(trainer, batch, flops, settings.seconds))
    report.add(**measure_phases(trainer, batch))


def check_largest(settings: TrainingSettings, report: Report) -> None:
    """Look for the largest batch, and measure steps of it and of half of it: the best batch is the faster one."""
    trainer = begin(settings, report)
    flops = take_first_step(trainer, trainer.batch(settings.batch_size), report)
    deadline = time.perf_counter() + settings.seconds
    largest = find_largest(trainer.fits, GRAIN, settings.ceiling, deadline)
    report.add(largest_batch=largest.size, largest_batch_is_proven=largest.is_proven)
    speeds: dict[int, float] = {}
    for name, size in {"at_largest_batch": largest.size, "at_half_of_it": largest.size // 2 // GRAIN * GRAIN}.items():
        if size:
            found = measure(trainer, trainer.batch(size), flops, settings.seconds / 4)
            report.add(**{f"{name}/{key}": value for key, value in found.items()})
            speeds[size] = found["samples_per_second"]
    if speeds:
        report.add(best_batch=max(speeds, key=speeds.__getitem__))


def begin(settings: TrainingSettings, report: Report) -> Trainer:
    """Build what trains, and report what it is."""
    warnings.filterwarnings("ignore", ".*self.trainer.* reference is not registered")  # scores go nowhere here
    trainer = Trainer(settings)
    precision = "bf16-true" if settings.masters else PRECISION
    sizes = {"precision": precision, "image_size": trainer.image_size, "tokens": trainer.tokens}
    report.add(settings=asdict(settings) | sizes, parameters=sum(p.numel() for p in trainer.task.parameters()))
    return trainer


def take_first_step(trainer: Trainer, batch: PretrainBatch, report: Report) -> float:
    """Take a step, report its seconds and its loss, and return the FLOPs of training on one sample."""
    recorder = FlopRecorder(trainer.task)
    recorder.start()
    began = time.perf_counter()
    first = trainer.step(batch)
    synchronise(trainer.device)
    report.add(first_step_seconds=time.perf_counter() - began, first_loss=require_finite(first))
    flops = {part: value / len(batch) for part, value in recorder.flops().items()}
    report.add(flops_per_sample=flops)
    return sum(flops.values())


def measure(trainer: Trainer, batch: PretrainBatch, flops: float, seconds: float) -> dict[str, float]:
    """Time steps on one batch, after two that count for nothing.

    Args:
        trainer: what trains.
        batch: on its device.
        flops: of training on one sample.
        seconds: to spend, at least for two steps.

    Returns:
        Seconds a step, samples and FLOP a second, utilisation where the device's peak is known, and peak memory.
    """
    device = trainer.device
    reset_peaks(device)
    for _ in range(2):
        trainer.step(batch)
    synchronise(device)
    began, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - began < seconds:
        loss = trainer.step(batch)
        synchronise(device)
        steps += 1
    step_seconds = (time.perf_counter() - began) / steps
    speed = len(batch) / step_seconds
    found = {
        "batch": len(batch),
        "steps": steps,
        "step_seconds": step_seconds,
        "samples_per_second": speed,
        "tflops": speed * flops / 1e12,
        "last_loss": require_finite(loss),
        **peak_memory(device),
    }
    peak = peak_flops(device, PRECISION) if device.type == "cuda" else None
    return found if peak is None else {**found, "utilisation": speed * flops / peak}


def measure_phases(trainer: Trainer, batch: PretrainBatch) -> dict[str, float]:
    """Take one step phase by phase and one under the profiler.

    Returns:
        Seconds by phase (``phase/...``), and the calls of a step (`count_calls`).
    """
    phases = Phases(trainer.device)
    with phases.forward_of(trainer.modules()):
        trainer.step(batch, phases)
    with count_calls(trainer.device) as calls:
        trainer.step(batch)
    return {f"phase/{name}": seconds for name, seconds in phases.seconds.items()} | calls


def require_finite(loss: torch.Tensor) -> float:
    """Return a loss.

    Raises:
        FloatingPointError: it is not finite.
    """
    value = float(loss)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {value}")
    return value


def find_largest(fits: Callable[[int], bool], grain: int, ceiling: int, deadline: float) -> Largest:
    """Find the largest multiple of ``grain`` that fits: doubling until one does not, then halving the gap.

    Args:
        fits: says whether so many pairs fit; what fits, fits with fewer.
        grain: the smallest size that is tried.
        ceiling: the largest.
        deadline: of ``time.perf_counter``; no try begins after it.

    Returns:
        What fitted; 0 if not even ``grain`` did.
    """
    good, bad = 0, None
    while time.perf_counter() < deadline:
        if bad is None:
            trial = 2 * good or grain
            if trial > ceiling:
                return Largest(good, False)
        else:
            trial = (good + bad) // 2 // grain * grain
            if trial <= good:
                return Largest(good, True)
        if fits(trial):
            good = trial
        else:
            bad = trial
    return Largest(good, bad is not None and bad - good <= grain)
