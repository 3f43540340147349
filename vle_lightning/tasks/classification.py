"""Image classification: the image encoded alone, its patches averaged, a linear head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, LabelBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.models.backbone import Blind
from vle_lightning.models.heads import FloatNorm, initialise
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.image_alone import ImageAloneTask
from vle_lightning.tasks.image_drawings import draw_labels
from vle_lightning.tasks.pictures import Names, Picture

Pooling = Literal["mean", "first"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
TOP = 5  # of acc@5


class ClassificationTask(ImageAloneTask):
    """Cross entropy over the classes of an image, as BEiT fine-tunes on ImageNet (arXiv 2106.08254).

    Images whose class is hidden reach neither loss nor score. Validation losses are without smoothing.
    """

    monitor = "val/acc@1"
    class_bias = "1.bias"

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        classes: int = 1000,
        pooling: Pooling = "mean",
        label_smoothing: float = 0.0,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(head_multiplier=1.0),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder, and a norm and a linear layer on its pooled states.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            classes: C, how many classes there are; the data module's list has as many.
            pooling: what stands for an image: the mean of its patches' states, or the first state. Either is behind
                the last layer and before the encoder's last norm; the head has a norm of its own (BEiT's fc_norm).
            label_smoothing: share of each target that is spread over all classes, in [0, 1).
            init: a checkpoint or run folder to start from.
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule.
            seed: of dropout.

        Raises:
            UserError: an option is out of range, or the encoder does not fit it.
        """
        super().__init__(architecture, classes, blind, optim, seed)
        if pooling not in POOLINGS:
            raise UserError(f"model.pooling is {pooling!r}; choose {' or '.join(POOLINGS)}")
        if pooling == "first" and not self.model.layout.prefix:
            raise UserError("model.pooling is 'first', but this image encoder has no class token; choose mean")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}; give a share from 0 up to below 1")
        self.pooling, self.label_smoothing = pooling, label_smoothing
        self.options = {"classes": classes, "pooling": pooling}
        self.depth = self.model.image_depth
        width = self.begin([self.depth])
        self.head = nn.Sequential(FloatNorm(width), nn.Linear(width, classes))
        initialise(self.head, self.model.init_std)
        self.add_scores(["loss", "acc@1", "acc@5"])
        self.start_encoder(init)

    def forward(self, batch: LabelBatch) -> Tensor:
        """Score the classes: logits (B, C)."""
        logits: Tensor = self.head(self.pool(batch.pixel_values))
        return logits

    def pool(self, pixel_values: Tensor) -> Tensor:
        """Encode B images (B, 3, H, W) alone: (B, D)."""
        (states, _), *_ = self.model.image_layers(pixel_values, [self.depth])
        if self.pooling == "first":
            return states[:, 0]
        return self.model.layout.patches(states, pixel_values).mean(1)

    def step(self, batch: LabelBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Average cross entropy over the images whose class is known."""
        logits = self(batch)
        known = batch.valid & (batch.targets != IGNORED)
        smoothing = self.label_smoothing if stage is Stage.TRAIN else 0.0
        scores, targets = logits[known].float(), batch.targets[known]
        losses = F.cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
        if stage is not Stage.TRAIN:
            self.score(stage, "loss", losses.detach().sum(), known.sum())
        best = scores.detach().topk(min(TOP, self.classes)).indices == targets[:, None]
        for name, hits in (("acc@1", best[:, 0]), ("acc@5", best.any(1))):
            self.score(stage, name, hits.sum(), known.sum())
        return losses.sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def pictures(self, batch: LabelBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw images with the most probable classes."""
        del names
        return [draw_labels(batch, self(batch).float().softmax(1), self.class_names(), self.model.pixels)]

    def predict_step(self, batch: LabelBatch) -> list[dict[str, object]]:
        """Return the class of each valid image by number and name, the true one if known, and the five best."""
        best = self(batch).float().softmax(1).topk(min(TOP, self.classes))
        columns = (batch.sample_ids, best.indices.tolist(), best.values.tolist(), batch.targets.tolist())
        names = self.class_names()
        return [
            {
                "id": name,
                "prediction": numbers[0],
                "class": names[numbers[0]],
                "target": None if target == IGNORED else target,
                "best": [names[number] for number in numbers],
                "probabilities": shares,
            }
            for name, numbers, shares, target, valid in zip(*columns, batch.valid.tolist(), strict=True)
            if valid
        ]


Task = ClassificationTask
