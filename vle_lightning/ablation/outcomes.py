"""What the finished runs of a study came to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from vle_lightning.ablation.report import FINETUNE, PRETRAIN
from vle_lightning.ablation.rows import BASELINE, Axis, Study
from vle_lightning.ablation.running import Job
from vle_lightning.files import is_number, read_object
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.records import split_of

RATE, FLOPS = "speed/samples_per_second", "flops/"  # of TensorBoard's events
MINUTE = 60.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """A row, over all seeds that are finished.

    Attributes:
        parameters: of the backbone.
        flops: of a pair in pre-training, forward and backward; None: not logged.
        seconds: of a step of pre-training, while it was fastest; None: not logged.
        minutes: of a seed, averaged; None: not recorded.
        seeds: that are finished.
        scores: shares in [0, 1], one for each seed, by name.
        references: ceilings and floors of the scores, by their full name.
        commits: of the code that ran, with "(modified)" where files differed.
    """

    parameters: int
    flops: float | None
    seconds: float | None
    minutes: float | None
    seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    references: Mapping[str, float]
    commits: tuple[str, ...]


class Band(NamedTuple):
    """What a score is compared with, and between which scores seeds alone can make the difference."""

    reference: float
    low: float
    high: float

    def holds(self, values: Sequence[float]) -> bool:
        """Is a score, of one seed or several, within noise: do its range and this one overlap?"""
        return self.low <= max(values) and min(values) <= self.high


def band_of(axis: Axis, outcomes: Mapping[str, Outcome], name: str) -> Band | None:
    """Return the band of a score on an axis; None where the runs that make it are not finished.

    It is the range of the baseline's seeds around their mean, or that of the row that an axis is compared with. Where
    such a row has one seed, it goes as far as the baseline's range is wide to either side of it.

    Args:
        axis: says what its rows are compared with.
        outcomes: of all rows.
        name: of the score.
    """
    values = outcomes[BASELINE].scores.get(name, ()) if BASELINE in outcomes else ()
    if not values:
        return None
    if axis.reference == BASELINE:
        return Band(statistics.mean(values), min(values), max(values))
    own = outcomes[axis.reference].scores.get(name, ()) if axis.reference in outcomes else ()
    if len(own) > 1:
        return Band(statistics.mean(own), min(own), max(own))
    width = max(values) - min(values)
    return Band(own[0], own[0] - width, own[0] + width) if own else None


def read_outcomes(study: Study, jobs: Sequence[Job]) -> dict[str, Outcome]:
    """Read the rows of which all stages are finished under some seed, with the settings of today, by name."""
    outcomes = {}
    for name in study.rows:
        if done := finished_jobs(name, jobs):
            outcomes[name] = read_outcome(study, done)
    return outcomes


def finished_jobs(name: str, jobs: Sequence[Job]) -> list[Job]:
    """Return the runs of a row under the seeds that are finished, by stage: a shared pre-training is not the row's."""
    ends = [job for job in jobs if (job.row.name, job.stage) == (name, FINETUNE) and job.is_finished]
    ends = [job for job in ends if job.after is None or job.after.is_finished]
    return [*(job.after for job in ends if job.after is not None and job.after.row.name == name), *ends]


def read_outcome(study: Study, jobs: Sequence[Job]) -> Outcome:
    """Read one row.

    Args:
        study: says which scores are read.
        jobs: all stages of each seed.
    """
    scores: dict[str, tuple[float, ...]] = {}
    references: dict[str, float] = {}
    commits: dict[str, None] = {}
    times: list[float] = []
    for job in jobs:
        metrics = read_object(job.folder.metrics)
        for name, stage in study.report.scores.items():
            value = metrics.get(f"{split_of(name, metrics)}/{name}")
            if stage == job.stage and is_number(value):
                scores[name] = (*scores.get(name, ()), float(value))
        references |= {key: value for key, value in metrics.items() if key.startswith(("ceiling/", "floor/"))}
        record = read_object(job.folder.record)
        commit = str(record.get("commit") or "not known")[:7]
        commits[f"{commit} (modified)" if record.get("modified") else commit] = None
        times += [float(record["seconds"])] if is_number(record.get("seconds")) else []
    costs = [read_cost(job.folder.path, batch_of(job)) for job in jobs if job.stage == PRETRAIN]
    seeds = tuple(job.seed for job in jobs if job.stage == FINETUNE)
    return Outcome(
        count_parameters(jobs[0]),
        _least([flops for flops, _ in costs]),
        _least([seconds for _, seconds in costs]),
        sum(times) / MINUTE / len(seeds) if len(times) == len(jobs) else None,
        seeds,
        scores,
        references,
        tuple(sorted(commits)),
    )


def batch_of(job: Job) -> int:
    """Return the samples of a step."""
    return int(job.options.get("data", {}).get("global_batch_size", 0))


def count_parameters(job: Job) -> int:
    """Count the parameters of the backbone: heads, which differ between objectives, are left out."""
    with torch.device("meta"):
        model = read_architecture(job.options["model"]["architecture"]).build()
    return sum(parameter.numel() for parameter in model.parameters())


def read_cost(folder: Path, batch: int) -> tuple[float | None, float | None]:
    """Read what a run has logged: FLOPs of a sample, and the seconds a step while it was slowed down the least."""
    events = EventAccumulator(str(folder)).Reload()
    names = events.Tags()["scalars"]
    counted = [events.Scalars(name)[-1].value for name in names if name.startswith(FLOPS)]
    rates = [event.value for event in events.Scalars(RATE)] if RATE in names else []
    return (sum(counted) if counted else None), (batch / max(rates) if rates and batch else None)


def _least(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None
