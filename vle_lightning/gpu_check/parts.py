"""What is checked, in which order, and for how long at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vle_lightning.gpu_check.photos import PhotoSettings, check_photos
from vle_lightning.gpu_check.rates import check_rates
from vle_lightning.gpu_check.report import Report
from vle_lightning.gpu_check.runs import SHARDED, RunSettings, check_run, check_tests
from vle_lightning.gpu_check.training import TrainingSettings, check_largest, check_training
from vle_lightning.performance import CHEAP

ALL = ("text", "image", "fusion")
PAIRS_A_STEP = 64  # of the run on photos


class Model(NamedTuple):
    """A model that is measured."""

    architecture: str
    batch_size: int = 8
    objectives: tuple[str, ...] = ()  # VLE's four if none is named


MODELS = (  # batches and objectives of experiments/pretrain/; the largest batch is looked for with the first two
    Model("vle-base", 32),
    Model("vle-large", 16),
    Model("meter-clip16-roberta", 32, ("mlm", "itm")),
    Model("vlmo-base", 32, ("itc", "itm_hard", "mlm")),
)
TINY_MODELS = (Model("tiny"), Model("vlmo-tiny", 8, ("itc", "itm_hard", "mlm")))


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
    models: tuple[Model, ...] = MODELS
    seconds: float = 10.0  # that timed steps take, a model
    ceiling: int = 4096  # of the search for the largest batch
    toy: str = "toy"
    toy_batch: int = 64
    photos: PhotoSettings = PhotoSettings("cuda", "vle-base", PAIRS_A_STEP)

    @property
    def precision(self) -> str:
        """The command line's own choice."""
        return "bf16-mixed" if self.device == "cuda" else "32-true"


def make_parts(scale: Scale, shared: Path) -> list[Part]:
    """List the parts, the most wanted first; their limits add up to more than the whole may take.

    Args:
        scale: how large they are.
        shared: a folder for what several of them need.
    """
    ways = [_settings(scale, model) for model in scale.models]
    first = ways[:2]
    return [
        Part("rates", 60, lambda report: check_rates(scale.device, report)),
        *(Part(way.architecture, 60, _training(way)) for way in ways),
        *(Part(f"{way.architecture} largest batch", 75, _largest(way)) for way in first),
        Part("photos", 110, lambda report: check_photos(scale.photos, shared, report)),
        *(Part(f"{way.architecture} compiled", 110, _training(replace(way, compiled=True))) for way in first),
        *(Part(f"{way.architecture} master weights", 60, _training(replace(way, masters=True))) for way in first),
        *_runs(scale, shared),
        Part("gpu tests", 120, lambda report: check_tests(scale.device, report)),
        *(_recomputed(way, name, parts) for way in first for name, parts in (("cheap", (CHEAP,)), ("all", ALL))),
    ]


def _settings(scale: Scale, model: Model) -> TrainingSettings:
    return TrainingSettings(
        model.architecture,
        scale.device,
        model.batch_size,
        scale.seconds,
        objectives=model.objectives,
        ceiling=scale.ceiling,
    )


def _runs(scale: Scale, shared: Path) -> list[Part]:
    plain = RunSettings(scale.device, "ddp", batch_size=scale.toy_batch, architecture=scale.toy)
    experiment = replace(plain, strategy="auto", steps=10, precision=scale.precision)
    runs = [Part("toy pre-training", 60, _run(experiment, shared)), Part("ddp", 60, _run(plain, shared))]
    return runs + [Part(name, 75, _run(replace(plain, strategy=name), shared)) for name in SHARDED]


def _recomputed(way: TrainingSettings, name: str, parts: tuple[str, ...]) -> Part:
    settings = replace(way, recomputed=parts)
    return Part(f"{way.architecture} recomputed, {name}", 75, _largest(settings))


def _training(settings: TrainingSettings) -> Callable[[Report], None]:
    return lambda report: check_training(settings, report)


def _largest(settings: TrainingSettings) -> Callable[[Report], None]:
    return lambda report: check_largest(settings, report)


def _run(settings: RunSettings, shared: Path) -> Callable[[Report], None]:
    return lambda report: check_run(settings, shared, report)
