"""Masked patch-box classification: name an object whose patches are hidden (docs/pretraining_spec.md).

After the figure in the authors' README: the patches of an object are hidden, the mean of their output states joins the
image sequence as one more token before fusion, and the fused state of that token is classified.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import FloatNorm, initialise
from vle_lightning.objectives.base import Hiding, Objective, ObjectiveOptions, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import FIRST, NONE, Fused, FusedView, ImageView, Reading


class MaskedPatchClassification(Objective):
    """MPC: the fused region token of a hidden box predicts the box's class."""

    name: ClassVar[str] = "mpc"
    score_names: ClassVar[tuple[str, ...]] = ("mpc_accuracy",)
    views: ClassVar[FusedView] = FusedView(image=ImageView.MASKED)

    @classmethod
    def build(cls, model: Backbone, options: ObjectiveOptions) -> Self:
        """Make the objective for that many box classes."""
        return cls(model, options.classes, options.hiding)

    def __init__(self, model: Backbone, classes: int, hiding: Hiding = "vector") -> None:
        """Make a head over ``classes`` classes, and the vector that stands for a hidden patch if there is to be one."""
        super().__init__(model)
        width = model.width
        self.layout = model.layout
        self.region_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), FloatNorm(width), nn.Linear(width, classes)
        )
        initialise(self, model.init_std)
        if hiding == "vector":
            self.mask_vector = nn.Parameter(torch.randn(model.hidden_width) * model.init_std)

    def logits(self, fused: Fused, batch: PretrainBatch) -> Tensor:
        """Score the classes of every hidden box: (B, H, classes)."""
        logits: Tensor = self.region_head(self.layout.regions(fused.image, batch.pixel_values))
        return logits

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the region tokens, which are the last; without any, the first state: ranks call the same layers."""
        boxes = batch.hidden_boxes.shape[1]
        return Reading(NONE, slice(-boxes, None) if boxes else FIRST)

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge the hidden boxes of valid rows."""
        drawn = (batch.hidden_classes >= 0) & batch.valid[:, None]
        targets = batch.hidden_classes.clamp(min=0)
        logits = self.logits(fused, batch)
        right = ((logits.argmax(-1) == targets) & drawn).sum()
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        loss = mean_loss(losses, drawn.flatten())
        if self.mask_vector is not None:
            loss = loss + 0.0 * self.mask_vector.sum()  # its gradient is there in every step
        return ObjectiveOutput(loss, drawn.sum(), (Score("mpc_accuracy", right, drawn.sum()),))
