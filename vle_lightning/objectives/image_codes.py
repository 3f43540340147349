"""Masked image modelling on images alone: what kind of patch is hidden here? (BEiT, arXiv 2106.08254, section 2.3)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, ImageBatch
from vle_lightning.encoders.base import PatchMask
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import initialise
from vle_lightning.objectives.base import Hiding, ObjectiveOutput, Score, mean_loss


class CodeCounts(NamedTuple):
    """How often each code stands on the patches that are judged."""

    every: Tensor  # (codes,)
    objects: Tensor  # (codes,) on patches that touch an object


class ImageCodes(nn.Module):
    """MIM by the image's own states: the state of a hidden patch predicts the patch's code by one linear layer."""

    score_names: ClassVar[tuple[str, ...]] = ("image_codes_accuracy", "image_codes_object_accuracy")

    def __init__(self, model: Backbone, codes: int, hiding: Hiding = "vector") -> None:
        """Make the head over ``codes`` codes, and the vector that stands for a hidden patch if there is to be one."""
        super().__init__()
        self.layout, self.codes = model.layout, codes
        self.head = nn.Linear(model.width, codes)
        initialise(self, model.init_std)
        self.register_parameter("mask_vector", None)
        if hiding == "vector":
            self.mask_vector = nn.Parameter(torch.randn(model.hidden_width) * model.init_std)

    def states(self, model: Backbone, batch: ImageBatch) -> Tensor:
        """Encode the images without their hidden patches: (B, P, D) of the patches."""
        stream = model.encode_image(batch.pixel_values, PatchMask(batch.hidden_patches, self.mask_vector))
        return self.layout.patches(model.encode_unimodal(stream, "image"), batch.pixel_values)

    def judged(self, batch: ImageBatch) -> Tensor:
        """Say which patches are judged, (B, P): the hidden ones of valid rows that have a code."""
        return batch.hidden_patches & (batch.patch_codes != IGNORED) & batch.valid[:, None]

    def forward(self, states: Tensor, batch: ImageBatch) -> ObjectiveOutput:
        """Judge the hidden patches of valid rows by the states (B, P, D)."""
        facts = self.judged(batch), batch.object_patches, batch.patch_codes
        chosen, objects, targets = (of.flatten()[batch.hidden_places] for of in facts)
        logits = self.head(states.flatten(0, 1)[batch.hidden_places])
        right, objects = (logits.argmax(-1) == targets) & chosen, objects & chosen
        loss = mean_loss(F.cross_entropy(logits.float(), targets, reduction="none"), chosen)
        if self.mask_vector is not None:
            loss = loss + 0.0 * self.mask_vector.sum()  # no patch may be hidden
        return ObjectiveOutput(
            loss,
            chosen.sum(),
            (
                Score("image_codes_accuracy", right.sum(), chosen.sum()),
                Score("image_codes_object_accuracy", (right & objects).sum(), objects.sum()),
            ),
        )

    def counts(self, batch: ImageBatch) -> CodeCounts:
        """Count the codes of what is judged; the most frequent one is what a guess without looking would say."""
        chosen = self.judged(batch)
        kinds = chosen, chosen & batch.object_patches
        return CodeCounts(*(_histogram(batch.patch_codes, kind, self.codes) for kind in kinds))


def _histogram(codes: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Count the chosen codes, (count,); bincount would make the host wait for the greatest one."""
    counts = torch.zeros(count, dtype=torch.int64, device=codes.device)
    return counts.index_add_(0, codes.clamp(min=0).flatten(), chosen.flatten().long())
