"""Image-text matching: does this text describe this image?"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import initialise
from vle_lightning.objectives.base import Objective, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import POOLED, Fused, FusedView, Pairing, Reading


class ImageTextMatching(Objective):
    """ITM: half of the pairs of a micro-batch do not match.

    Their images have the next text of another image beside them, or their texts an image drawn from the whole data.
    """

    name: ClassVar[str] = "itm"
    score_names: ClassVar[tuple[str, ...]] = ("itm_accuracy",)
    views: ClassVar[FusedView] = FusedView(pairing=Pairing.HALF_SHIFTED)

    def __init__(self, model: Backbone) -> None:
        super().__init__(model)
        self.head = nn.Linear(model.pooled_width, 2)
        initialise(self, model.init_std)

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the pooled pair."""
        del batch
        return POOLED

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge the valid pairs; class 1 is a match."""
        rows = torch.arange(len(batch), device=batch.partner.device)
        targets = (batch.partner == rows).long()
        logits = self.head(fused.pooled)
        right = ((logits.argmax(-1) == targets) & batch.valid).sum()
        loss = mean_loss(F.cross_entropy(logits.float(), targets, reduction="none"), batch.valid)
        return ObjectiveOutput(loss, batch.valid.sum(), (Score("itm_accuracy", right, batch.valid.sum()),))
