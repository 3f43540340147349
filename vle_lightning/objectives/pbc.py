"""Patch-box classification: which patches belong to a region that the text mentions? (docs/pretraining_spec.md)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import classifier, initialise
from vle_lightning.models.regions import box_patches
from vle_lightning.objectives.base import Objective, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import ALL, NONE, Fused, FusedView, Pairing, Reading


class PatchBoxClassification(Objective):
    """PBC on the matching half of ITM's pairs, with the head of the published checkpoints."""

    name: ClassVar[str] = "pbc"
    score_names: ClassVar[tuple[str, ...]] = ("pbc_iou",)
    views: ClassVar[FusedView] = FusedView(pairing=Pairing.HALF_SHIFTED)

    def __init__(self, model: Backbone) -> None:
        super().__init__(model)
        self.layout = model.layout
        self.head = classifier(model.width, model.width, 2)
        initialise(self, model.init_std)

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the image."""
        del batch
        return Reading(NONE, ALL)

    def logits(self, fused: Fused, batch: PretrainBatch) -> Tensor:
        """Score every patch of every image: (B, P, 2), class 1 is mentioned."""
        logits: Tensor = self.head(self.layout.patches(fused.image, batch.pixel_values))
        return logits

    def targets(self, batch: PretrainBatch) -> Tensor:
        """Say which patches lie in a mentioned box: (B, P) bool."""
        covered = box_patches(batch.boxes, self.layout.grid(batch.pixel_values))
        return (covered & (batch.box_mentioned & batch.box_valid)[..., None]).any(1)

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge all patches of valid matching pairs whose text mentions a box."""
        rows = torch.arange(len(batch), device=batch.partner.device)
        mentions = (batch.box_mentioned & batch.box_valid).any(1)
        own = (batch.partner == rows).index_fill(0, batch.drawn_rows, False)  # a drawn image is cut in another way
        targets, logits = self.targets(batch), self.logits(fused, batch)
        judged = (own & mentions & batch.valid)[:, None].expand_as(targets)
        found = logits.argmax(-1) == 1
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.long().flatten(), reduction="none")
        overlap, union = (found & targets & judged).sum(), ((found | targets) & judged).sum()
        return ObjectiveOutput(mean_loss(losses, judged.flatten()), judged.sum(), (Score("pbc_iou", overlap, union),))
