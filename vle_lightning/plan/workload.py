"""What one micro-batch of an experiment runs: its parameters, and the sizes of every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from vle_lightning.errors import UserError
from vle_lightning.flops import PARTS, FlopRecorder, Recording, flops_by_part, linear_sizes
from vle_lightning.hub.architecture import Architecture, read_architecture
from vle_lightning.models.backbone import Backbone, BackboneConfig
from vle_lightning.plan.kinds import Sample, find_kind
from vle_lightning.plan.outline import OutlineConfig
from vle_lightning.tasks.base import Stage, VisionLanguageTask


class Workload(NamedTuple):
    """A task and what a micro-batch of it calls. Nothing is computed for it: weights are on meta."""

    task: VisionLanguageTask
    config: BackboneConfig
    rows: int
    sample: Sample
    recording: Recording
    maps: int = 0  # numbers of a pixel that the loss holds at once

    def flops(self) -> dict[str, float]:
        """Return training FLOPs of a sample, by part; those of DeBERTa's positions are shared by the micro-batch."""
        heads = linear_sizes(self.task)
        blind = self.task.model.blind
        counted = flops_by_part(self.recording, self.config, blind, heads)
        return {part: flops / self.rows for part, flops in counted.items()}

    def parameters(self) -> dict[str, tuple[int, int]]:
        """Return how many parameters each part has, and how many of them train; shared ones count once."""
        counts = {part: [0, 0] for part in PARTS}
        for name, parameter in self.task.named_parameters():
            count = counts[part_of(self.task.model, name)]
            count[0] += parameter.numel()
            count[1] += parameter.numel() * parameter.requires_grad
        return {part: (whole, trained) for part, (whole, trained) in counts.items()}


def part_of(model: Backbone, name: str) -> str:
    """Return the part of a parameter by its name in the task."""
    return model.part_of(name.removeprefix("model.")) if name.startswith("model.") else "heads"


def find_workload(
    name: str,
    architecture: Architecture,
    rows: int,
    sample: Sample,
    **options: Any,  # noqa: ANN401 (of the task)
) -> Workload:
    """Find out what a micro-batch of a task calls.

    A twin of the task, with the same heads over the outline of the backbone, runs one: which calls there are for how
    many rows does not depend on what they compute. So an objective needs to say nothing of its cost.

    Args:
        name: of the task, a key of `KINDS`.
        architecture: of the backbone.
        rows: B samples.
        sample: what one is like; the share of masked tokens is met up to rounding over the micro-batch, that of hidden
            patches in each image.
        options: of the task that shape it (`Kind.shaping`).

    Raises:
        UserError: the task cannot be planned, the pictures are no multiple of the patches, or an option cannot be.
    """
    kind, config = find_kind(name), read_architecture(architecture)
    with torch.device("meta"):
        task = kind.task(config, **options)
    layout = task.model.layout
    if sample.image_size % layout.patch_size:
        raise UserError(
            f"data.image_size {sample.image_size} is not a multiple of model.architecture's patches, "
            f"{layout.patch_size}"
        )
    if sample.image_size not in (0, config.image_size):  # as a fit does before it begins
        config = config.resized(sample.image_size)
        with torch.device("meta"):
            task = kind.task(config, **options)
    with torch.random.fork_rng(devices=[]):
        twin = kind.task(OutlineConfig.of(task.model), **{**options, **kind.twin})
        recorder = FlopRecorder(twin)
        recorder.start()
        twin.step(kind.batch(rows, sample, layout), Stage.VAL)
    return Workload(task, config, rows, sample, recorder.stop(), kind.maps(task))


def pretraining_workload(
    architecture: Architecture,
    rows: int,
    sample: Sample,
    objectives: Mapping[str, float] | None = None,
    **options: Any,  # noqa: ANN401 (of the task)
) -> Workload:
    """Find out what a micro-batch of pre-training on pairs calls (see `find_workload`); VLE's objectives by default."""
    weights = None if objectives is None else dict(objectives)
    return find_workload("pretrain", architecture, rows, sample, objectives=weights, **options)


def pretraining_flops(
    architecture: Architecture,
    rows: int,
    sample: Sample,
    objectives: Mapping[str, float] | None = None,
    **options: Any,  # noqa: ANN401 (of the task)
) -> dict[str, float]:
    """Return the training FLOPs of one sample in a micro-batch of ``rows``, by part (see `pretraining_workload`)."""
    return pretraining_workload(architecture, rows, sample, objectives, **options).flops()


def matrix_weights(task: nn.Module) -> int:
    """Count the weights and biases of linear layers and convolutions that train, a tied one once: autocast's copies."""
    layers = (module for module in task.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    parameters = {id(p): p.numel() for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad}
    return sum(parameters.values())
