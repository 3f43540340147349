"""What one micro-batch of an experiment runs: its parameters, and the sizes of every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.errors import UserError
from vle_lightning.flops import PARTS, FlopRecorder, Recording, flops_by_part, linear_sizes
from vle_lightning.hub.architecture import Architecture, read_architecture
from vle_lightning.models.backbone import Backbone, BackboneConfig
from vle_lightning.plan.outline import OutlineConfig
from vle_lightning.streams import ImageLayout
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask

BOXES = 10  # of an image, where nobody says otherwise; only MPC's head sees them
SHAPING = ("classes", "codes", "blind", "passes", "tied")  # options of the task that its cost depends on
MASKED = 0.15  # of the tokens: the data module's default


class Sample(NamedTuple):
    """One image-text pair, as it is on average."""

    tokens: int  # of the text as padded
    image_size: int  # pixels
    masked: float = MASKED  # share of the tokens that MLM restores
    boxes: int = BOXES  # slots of the image's boxes, as padded
    patches: float = 0.0  # share of the patches that masked image modelling hides
    drawn: float = 0.0  # images beside its own that are drawn for ITM


class Workload(NamedTuple):
    """A pre-training task and what a micro-batch of it calls. Nothing is computed for it: weights are on meta."""

    task: PretrainTask
    config: BackboneConfig
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
            count = counts[part_of(self.task.model, name)]
            count[0] += parameter.numel()
            count[1] += parameter.numel() * parameter.requires_grad
        return {part: (whole, trained) for part, (whole, trained) in counts.items()}


def part_of(model: Backbone, name: str) -> str:
    """Return the part of a parameter by its name in the task."""
    return model.part_of(name.removeprefix("model.")) if name.startswith("model.") else "heads"


def pretraining_workload(
    architecture: Architecture,
    rows: int,
    sample: Sample,
    objectives: Mapping[str, float] | None = None,
    **options: Any,  # noqa: ANN401 (of the task)
) -> Workload:
    """Find out what a micro-batch of pre-training calls.

    A twin of the task, of the same objectives over the outline of the backbone, runs one: which calls there are for how
    many rows does not depend on what they compute. So an objective needs to say nothing of its cost.

    Args:
        architecture: of the backbone.
        rows: B pairs.
        sample: what a pair is like; the share of masked tokens is met up to rounding over the micro-batch, that of
            hidden patches in each image.
        objectives: weight by name; VLE's four by default.
        options: further ones of the task that shape it (`SHAPING`).

    Raises:
        UserError: the pictures are no multiple of the patches, or an objective is unknown.
    """
    config = read_architecture(architecture)
    weights = None if objectives is None else dict(objectives)
    with torch.device("meta"):
        task = PretrainTask(config, weights, **options)
    if sample.image_size % task.model.layout.patch_size:
        raise UserError(
            f"data.image_size {sample.image_size} is no multiple of model.architecture's patches, "
            f"{task.model.layout.patch_size}"
        )
    with torch.random.fork_rng(devices=[]):
        thin = {**options, "classes": 1, "codes": 1}
        twin = PretrainTask(OutlineConfig.of(task.model), weights, **thin)
        recorder = FlopRecorder(twin)
        recorder.start()
        twin.step(plain_batch(rows, sample, task.model.layout), Stage.VAL)
    return Workload(task, config, rows, sample, recorder.stop())


def pretraining_flops(
    architecture: Architecture,
    rows: int,
    sample: Sample,
    objectives: Mapping[str, float] | None = None,
    **options: Any,  # noqa: ANN401 (of the task)
) -> dict[str, float]:
    """Return the training FLOPs of one sample in a micro-batch of ``rows``, by part (see `pretraining_workload`)."""
    return pretraining_workload(architecture, rows, sample, objectives, **options).flops()


def plain_batch(rows: int, sample: Sample, layout: ImageLayout | None = None) -> PretrainBatch:
    """Make B equal pairs: grey pictures, texts of one word, all matching, the first tokens masked.

    The first patches are hidden where ``layout`` says which patches there are.
    """
    shape = (rows, sample.tokens)
    ids = torch.full(shape, 1)
    chosen = torch.arange(ids.numel()).view(shape) < round(sample.masked * ids.numel())
    boxes = torch.tensor([0.0, 0.0, 0.5, 0.5]).expand(rows, sample.boxes, 4)
    known = torch.ones(rows, sample.boxes, dtype=torch.bool)
    hidden = max(1, sample.boxes // 3)  # as MPC draws them
    pixels = torch.zeros(rows, 3, sample.image_size, sample.image_size)
    drawn = int(sample.drawn * rows)
    height, width = layout.grid(pixels) if layout else (0, 0)
    patches = torch.arange(height * width) < round(sample.patches * height * width)
    return PretrainBatch(
        sample_ids=tuple(map(str, range(rows))),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=pixels,
        input_ids=ids,
        attention_mask=torch.ones(shape, dtype=torch.bool),
        texts=("",) * rows,
        keys=torch.arange(rows)[:, None].expand(-1, 3),
        masked_input_ids=ids,
        mlm_targets=ids.masked_fill(~chosen, IGNORED),
        mlm_content=chosen,
        partner=torch.arange(rows),
        drawn_rows=torch.arange(drawn),
        drawn_pixel_values=pixels[:drawn],
        boxes=boxes,
        box_valid=known,
        box_mentioned=known,
        hidden_boxes=boxes[:, :hidden],
        hidden_classes=torch.zeros(rows, hidden, dtype=torch.long),
        hidden_patches=patches.expand(rows, -1),
        patch_codes=torch.zeros(rows, height * width, dtype=torch.long),
    )


def matrix_weights(task: nn.Module) -> int:
    """Count the weights and biases of linear layers and convolutions that train, a tied one once: autocast's copies."""
    layers = (module for module in task.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    parameters = {id(p): p.numel() for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad}
    return sum(parameters.values())
