"""Masked patch-box classification: name an object whose patches are hidden (docs/pretraining_spec.md)."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch
from vle_lightning.encoders.image import patch_grid
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.heads import FloatNorm, initialise
from vle_lightning.models.regions import box_patches, pool_patches
from vle_lightning.objectives.base import Objective, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import Fused, FusedView, ImageView


class MaskedPatchClassification(Objective):
    """MPC: the mean of the fused states of a hidden box's patches predicts the box's class."""

    name: ClassVar[str] = "mpc"
    score_names: ClassVar[tuple[str, ...]] = ("mpc_accuracy",)
    views: ClassVar[FusedView] = FusedView(image=ImageView.MASKED)

    @classmethod
    def build(cls, model: DualStream, classes: int) -> Self:
        """Make the objective for that many box classes."""
        return cls(model, classes)

    def __init__(self, model: DualStream, classes: int) -> None:
        """Make a head over ``classes`` classes and the vector that stands for a hidden patch."""
        super().__init__(model)
        width = model.width
        self.patch_size = model.config.image.patch_size
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), FloatNorm(width), nn.Linear(width, classes))
        initialise(self, model.config.init_std)
        self.mask_vector: nn.Parameter = nn.Parameter(torch.randn(model.config.image.width) * model.config.init_std)

    def logits(self, fused: Fused, batch: PretrainBatch) -> Tensor:
        """Score the classes of every box slot: (B, R, classes)."""
        patches = patch_grid(batch.pixel_values, self.patch_size)
        states = fused.image[:, 1 : 1 + patches[0] * patches[1]]
        logits: Tensor = self.head(pool_patches(states, box_patches(batch.boxes, patches)))
        return logits

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge the drawn boxes of valid rows."""
        drawn = batch.box_drawn & batch.box_valid & (batch.box_classes >= 0) & batch.valid[:, None]
        targets = batch.box_classes[drawn]
        logits = self.logits(fused, batch)[drawn]
        right = (logits.argmax(-1) == targets).sum()
        loss = mean_loss(F.cross_entropy(logits.float(), targets, reduction="none")) + 0.0 * self.mask_vector.sum()
        return ObjectiveOutput(loss, drawn.sum(), (Score("mpc_accuracy", right, drawn.sum()),))
