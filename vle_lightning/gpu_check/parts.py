"""What is checked, in which order, and for how long at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vle_lightning.gpu_check.rates import check_rates
from vle_lightning.gpu_check.report import Report
from vle_lightning.gpu_check.runs import SHARDED, RunSettings, check_run, check_tests
from vle_lightning.gpu_check.training import TrainingSettings, check_training

ALL = ("text", "image", "fusion")
BATCH = {"vle-base": 32, "vle-large": 16}  # of experiments/pretrain/


@dataclass(frozen=True)
class Part:
    """A check of its own process."""

    name: str
    seconds: float  # until it is ended
    check: Callable[[Report], None]


@dataclass(frozen=True)
class Scale:
    """How large the checks are: at full size on a GPU, tiny on the CPU, where they are tested."""

    device: str
    architectures: tuple[str, ...] = ("vle-base", "vle-large")
    seconds: float = 12.0  # that timed steps take, a model
    ceiling: int = 4096  # of the search for the largest batch
    toy: str = "toy"
    toy_batch: int = 64


def make_parts(scale: Scale, shared: Path) -> list[Part]:
    """List the parts, the most wanted first; their limits add up to more than the whole may take.

    Args:
        scale: how large they are.
        shared: a folder for what several of them need.
    """
    parts = []
    for architecture in scale.architectures:
        for compiled, recomputed in ((False, ()), (True, ()), (False, ALL)):
            settings = TrainingSettings(
                architecture,
                scale.device,
                BATCH.get(architecture, 8),
                scale.seconds / (2 if recomputed else 1),
                compiled,
                recomputed,
                largest=not compiled,
                ceiling=scale.ceiling,
            )
            way = " compiled" if compiled else " recomputed" if recomputed else ""
            parts.append(Part(f"{architecture}{way}", 110 if compiled else 75, _training(settings)))
    plain = RunSettings(scale.device, "ddp", batch_size=scale.toy_batch, architecture=scale.toy)
    precision = "bf16-mixed" if scale.device == "cuda" else "32-true"  # the command line's own choice
    experiment = replace(plain, strategy="auto", steps=10, precision=precision)
    runs = [Part("toy pre-training", 60, _run(experiment, shared)), Part("ddp", 60, _run(plain, shared))]
    runs += [Part(name, 75, _run(replace(plain, strategy=name), shared)) for name in SHARDED]
    tests = Part("gpu tests", 120, lambda report: check_tests(scale.device, report))
    first = [part for part in parts if not part.name.endswith("recomputed")]
    last = [part for part in parts if part.name.endswith("recomputed")]
    rates = Part("rates", 60, lambda report: check_rates(scale.device, report))
    return [rates, *first, *runs, tests, *last]


def _training(settings: TrainingSettings) -> Callable[[Report], None]:
    return lambda report: check_training(settings, report)


def _run(settings: RunSettings, shared: Path) -> Callable[[Report], None]:
    return lambda report: check_run(settings, shared, report)
