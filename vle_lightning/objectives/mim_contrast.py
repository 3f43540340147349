"""Masked image modelling with in-batch negatives: which patch is hidden here? (docs/pretraining_spec.md).

METER (arXiv 2111.02387) takes all patches of the batch for a vocabulary, and left no code of it: what a candidate is
made of, and the temperature, are ours.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import initialise
from vle_lightning.objectives.base import Hiding, Objective, ObjectiveOptions, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import ALL, NONE, Fused, FusedView, ImageView, Reading, Stream

TEMPERATURE = 0.07  # of the cosines (ours; the start of CLIP's, arXiv 2103.00020)


class MaskedPatchContrast(Objective):
    """MIM: the fused state of a hidden patch finds that patch among all patches of the micro-batch."""

    name: ClassVar[str] = "mim_contrast"
    score_names: ClassVar[tuple[str, ...]] = ("mim_contrast_accuracy",)
    views: ClassVar[FusedView] = FusedView(image=ImageView.PATCHES)
    reads: ClassVar[tuple[ImageView, ...]] = (ImageView.CLEAN,)

    @classmethod
    def build(cls, model: Backbone, options: ObjectiveOptions) -> Self:
        """Make the objective; it needs to know how patches are hidden."""
        return cls(model, options.hiding)

    def __init__(self, model: Backbone, hiding: Hiding = "vector") -> None:
        """Make the two projections, and the vector that stands for a hidden patch if there is to be one."""
        super().__init__(model)
        self.layout = model.layout
        self.query = nn.Linear(model.width, model.width)
        self.candidate = nn.Linear(model.width, model.width)
        initialise(self, model.init_std)
        if hiding == "vector":
            self.mask_vector = nn.Parameter(torch.randn(model.hidden_width) * model.init_std)

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the image."""
        del batch
        return Reading(NONE, ALL)

    def logits(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Compare K fused states of hidden patches with N encoded patches: (K, N), cosines over the temperature.

        Args:
            queries: (K, D).
            candidates: (N, D).
        """
        found, offered = self.query(queries), self.candidate(candidates)
        with torch.autocast(found.device.type, enabled=False):  # in bfloat16, logits near 14 are 1/16 apart
            return F.normalize(found.float(), dim=-1) @ F.normalize(offered.float(), dim=-1).T / TEMPERATURE

    def forward(self, fused: Fused, batch: PretrainBatch, clean: Stream) -> ObjectiveOutput:  # type: ignore[override]
        """Judge the K hidden patches of valid rows among all patches of valid rows.

        Args:
            fused: of the images with hidden patches, B pairs.
            batch: the micro-batch.
            clean: the whole images before fusion; candidates teach their projection, not the image encoder.
        """
        targets = batch.hidden_places
        chosen = (batch.hidden_patches & batch.valid[:, None]).flatten()[targets]
        offered = batch.valid[:, None].expand_as(batch.hidden_patches).flatten()
        queries = self.layout.patches(fused.image, batch.pixel_values).flatten(0, 1)[targets]
        candidates = self.layout.patches(clean.states.detach(), batch.pixel_values).flatten(0, 1)
        logits = self.logits(queries, candidates).masked_fill(~offered, -torch.inf)
        right = ((logits.argmax(-1) == targets) & chosen).sum()
        loss = mean_loss(F.cross_entropy(logits, targets, reduction="none"), chosen)
        if self.mask_vector is not None:
            loss = loss + 0.0 * self.mask_vector.sum()  # another objective's may stand there
        return ObjectiveOutput(loss, chosen.sum(), (Score("mim_contrast_accuracy", right, chosen.sum()),))
