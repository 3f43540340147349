"""Masked image modelling with discrete codes: what kind of patch is hidden here? (docs/pretraining_spec.md).

METER (arXiv 2111.02387) takes the codes of DALL-E's dVAE, as BEiT does, and left no code of it. Here they are whatever
codebook the data module has (`datamodules.codebook`), and come with the batch.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import FloatNorm, initialise
from vle_lightning.objectives.base import Hiding, Objective, ObjectiveOptions, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import ALL, NONE, Fused, FusedView, ImageView, Reading


class MaskedPatchCodes(Objective):
    """MIM: the fused state of a hidden patch predicts the patch's code."""

    name: ClassVar[str] = "mim_codes"
    score_names: ClassVar[tuple[str, ...]] = ("mim_codes_accuracy",)
    views: ClassVar[FusedView] = FusedView(image=ImageView.PATCHES)

    @classmethod
    def build(cls, model: Backbone, options: ObjectiveOptions) -> Self:
        """Make the objective for that many codes."""
        return cls(model, options.codes, options.hiding)

    def __init__(self, model: Backbone, codes: int, hiding: Hiding = "vector") -> None:
        """Make a head over ``codes`` codes, and the vector that stands for a hidden patch if there is to be one."""
        super().__init__(model)
        width = model.width
        self.layout = model.layout
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), FloatNorm(width), nn.Linear(width, codes))
        initialise(self, model.init_std)
        if hiding == "vector":
            self.mask_vector = nn.Parameter(torch.randn(model.hidden_width) * model.init_std)

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the image."""
        del batch
        return Reading(NONE, ALL)

    def logits(self, states: Tensor) -> Tensor:
        """Score every code for fused patch states (K, D): (K, codes)."""
        logits: Tensor = self.head(states)
        return logits

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge the hidden patches of valid rows that have a code."""
        places = batch.hidden_places
        judged = batch.hidden_patches & (batch.patch_codes != IGNORED) & batch.valid[:, None]
        targets, chosen = batch.patch_codes.flatten()[places], judged.flatten()[places]
        logits = self.logits(self.layout.patches(fused.image, batch.pixel_values).flatten(0, 1)[places])
        right = ((logits.argmax(-1) == targets) & chosen).sum()
        loss = mean_loss(F.cross_entropy(logits.float(), targets, reduction="none"), chosen)
        if self.mask_vector is not None:
            loss = loss + 0.0 * self.mask_vector.sum()  # another objective's may stand there
        return ObjectiveOutput(loss, chosen.sum(), (Score("mim_codes_accuracy", right, chosen.sum()),))
