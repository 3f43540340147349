"""What one micro-batch of an experiment runs: its parameters, and the sizes of every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.errors import UserError
from vle_lightning.flops import PARTS, FlopRecorder, Recording, flops_by_part, linear_sizes
from vle_lightning.models.dual_stream import Blind, DualStreamConfig
from vle_lightning.models.presets import find_config
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import Passes, PretrainTask

BOXES = 10  # of an image, where nobody says otherwise; only MPC's head sees them
MASKED = 0.15  # of the tokens: the data module's default


class Sample(NamedTuple):
    """One image-text pair, as it is on average."""

    tokens: int  # of the text as padded
    image_size: int  # pixels
    masked: float = MASKED  # share of the tokens that MLM restores
    boxes: int = BOXES  # slots of the image's boxes, as padded


class Workload(NamedTuple):
    """A pre-training task and what a micro-batch of it calls. Nothing is computed for it: weights are on meta."""

    task: PretrainTask
    config: DualStreamConfig
    rows: int
    sample: Sample
    recording: Recording

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
            count = counts[part_of(name)]
            count[0] += parameter.numel()
            count[1] += parameter.numel() * parameter.requires_grad
        return {part: (whole, trained) for part, (whole, trained) in counts.items()}


def part_of(name: str) -> str:
    """Return the part of a parameter by its name in the task: projections belong to their tower."""
    if not name.startswith("model."):
        return "heads"
    first = name.split(".")[1]
    return {"text_projection": "text", "image_projection": "image"}.get(first, first if first in PARTS else "fusion")


def pretraining_workload(
    config: str | DualStreamConfig,
    rows: int,
    sample: Sample,
    objectives: Mapping[str, float] | None = None,
    classes: int = 1600,
    blind: Blind = "none",
    passes: Passes = "apart",
) -> Workload:
    """Find out what a micro-batch of pre-training calls.

    A twin of the task, of the same objectives at a width of four, runs one: how often each layer is called for how
    many rows does not depend on widths. So an objective needs to say nothing of its cost.

    Args:
        config: of the encoder.
        rows: B pairs.
        sample: what a pair is like; the share of masked tokens is met up to rounding over the micro-batch.
        objectives: weight by name; VLE's four by default.
        classes: of MPC.
        blind: what is withheld.
        passes: of MLM and MPC.

    Raises:
        UserError: the pictures are no multiple of the patches, or an objective is unknown.
    """
    config = find_config(config)
    if sample.image_size % config.image.patch_size:
        raise UserError(
            f"data.image_size {sample.image_size} is no multiple of model.architecture's patches, "
            f"{config.image.patch_size}"
        )
    weights = None if objectives is None else dict(objectives)
    with torch.device("meta"):
        task = PretrainTask(config, weights, classes, blind=blind, passes=passes)
    with torch.random.fork_rng(devices=[]):
        twin = PretrainTask(_thin(config, sample), weights, classes=1, blind=blind, passes=passes)
        recorder = FlopRecorder(twin)
        recorder.start()
        twin.step(plain_batch(rows, sample), Stage.VAL)
    return Workload(task, config, rows, sample, recorder.stop())


def pretraining_flops(
    config: str | DualStreamConfig,
    rows: int,
    sample: Sample,
    objectives: Mapping[str, float] | None = None,
    classes: int = 1600,
    blind: Blind = "none",
) -> dict[str, float]:
    """Return the training FLOPs of one sample in a micro-batch of ``rows``, by part (see `pretraining_workload`)."""
    return pretraining_workload(config, rows, sample, objectives, classes, blind).flops()


def plain_batch(rows: int, sample: Sample) -> PretrainBatch:
    """Make B equal pairs: grey pictures, texts of one word, all matching, the first tokens masked."""
    shape = (rows, sample.tokens)
    ids = torch.full(shape, 1)
    chosen = torch.arange(ids.numel()).view(shape) < round(sample.masked * ids.numel())
    boxes = torch.tensor([0.0, 0.0, 0.5, 0.5]).expand(rows, sample.boxes, 4)
    known = torch.ones(rows, sample.boxes, dtype=torch.bool)
    hidden = max(1, sample.boxes // 3)  # as MPC draws them
    return PretrainBatch(
        sample_ids=tuple(map(str, range(rows))),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.zeros(rows, 3, sample.image_size, sample.image_size),
        input_ids=ids,
        attention_mask=torch.ones(shape, dtype=torch.bool),
        texts=("",) * rows,
        masked_input_ids=ids,
        mlm_targets=ids.masked_fill(~chosen, IGNORED),
        mlm_content=chosen,
        partner=torch.arange(rows),
        boxes=boxes,
        box_valid=known,
        box_mentioned=known,
        hidden_boxes=boxes[:, :hidden],
        hidden_classes=torch.zeros(rows, hidden, dtype=torch.long),
    )


def _thin(config: DualStreamConfig, sample: Sample) -> DualStreamConfig:
    """Return one layer of width four a part, for the same pictures."""
    width: dict[str, Any] = {"width": 4, "layers": 1, "heads": 1, "intermediate": 4}
    return replace(
        config,
        text=replace(config.text, vocab_size=2, position_buckets=2, max_positions=max(sample.tokens, 4), **width),
        image=replace(config.image, **width),
        fusion=replace(config.fusion, **width),
    )


def matrix_weights(task: nn.Module) -> int:
    """Count the weights and biases of linear layers and convolutions that train, a tied one once: autocast's copies."""
    layers = (module for module in task.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    parameters = {id(p): p.numel() for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad}
    return sum(parameters.values())
