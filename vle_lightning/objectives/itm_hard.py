"""Image-text matching with hard negatives: the texts and images that contrast takes for likely (VLMo, section 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import initialise
from vle_lightning.objectives.base import Extra, Objective, ObjectiveOutput, Score, mean_loss
from vle_lightning.objectives.contrast import Negatives
from vle_lightning.streams import POOLED, Fused, FusedView, Pairing, Reading


class HardImageTextMatching(Objective):
    """ITM: each pair as it is, its image beside another text, and its text beside another image.

    Two of three pairs do not match, and a constant answer is right as often: matches and mismatches are scored apart as
    well.
    """

    name: ClassVar[str] = "itm_hard"
    score_names: ClassVar[tuple[str, ...]] = ("itm_hard_accuracy", "itm_hard_matches", "itm_hard_mismatches")
    views: ClassVar[FusedView] = FusedView(pairing=Pairing.HARD)
    extras: ClassVar[tuple[Extra, ...]] = (Extra.NEGATIVES,)

    def __init__(self, model: Backbone) -> None:
        super().__init__(model)
        self.head = nn.Linear(model.pooled_width, 2)
        initialise(self, model.init_std)

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the pooled pair."""
        del batch
        return POOLED

    def forward(self, fused: Fused, batch: PretrainBatch, negatives: Negatives) -> ObjectiveOutput:  # type: ignore[override]
        """Judge 3 B pairs; class 1 is a match. A row for which no negative could be drawn has none."""
        return judge_matches(self.head(fused.pooled), batch.valid, negatives)


def judge_matches(logits: Tensor, valid: Tensor, negatives: Negatives) -> ObjectiveOutput:
    """Judge B pairs, then their images beside other texts, then their texts beside other images.

    Args:
        logits: (3 B, 2); class 1 is a match.
        valid: (B,) bool.
        negatives: which of the B have another text and another image.
    """
    judged = torch.cat([valid, valid & negatives.has_text, valid & negatives.has_image])
    targets = (torch.arange(len(judged), device=valid.device) < len(valid)).long()
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    right = (logits.argmax(-1) == targets) & judged
    kinds = (judged, judged & targets.bool(), judged & ~targets.bool())
    names = HardImageTextMatching.score_names
    scores = (Score(name, (right & kind).sum(), kind.sum()) for name, kind in zip(names, kinds, strict=True))
    return ObjectiveOutput(mean_loss(losses, judged), judged.sum(), tuple(scores))
