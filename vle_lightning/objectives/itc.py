"""Image-text contrast: which text of the whole step describes this image, and which image this text? (VLMo, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from vle_lightning.models.backbone import Backbone
from vle_lightning.models.contrastive import ContrastiveHead
from vle_lightning.objectives.base import Extra, Objective, ObjectiveOutput, Score
from vle_lightning.objectives.contrast import Contrast, Pairs, Rows, Vectors, judge
from vle_lightning.objectives.passes import Encoded
from vle_lightning.streams import Fused, FusedView


class ImageTextContrast(Objective):
    """ITC: the mean of one contrast for each way in which the backbone encodes a modality by itself.

    The loss is that of the whole step, the same on all ranks and micro-batches, and the mean of their gradients is its
    gradient. (VLMo's code divides it by the number of ranks, which its paper does not mention.)
    """

    name: ClassVar[str] = "itc"
    score_names: ClassVar[tuple[str, ...]] = ("itc_accuracy",)
    views: ClassVar[FusedView] = FusedView()
    fuses: ClassVar[bool] = False
    extras: ClassVar[tuple[Extra, ...]] = (Extra.VECTORS, Extra.CONTRAST)

    def __init__(self, model: Backbone, first: bool = False) -> None:
        """Make a head for each way.

        Args:
            model: the backbone.
            first: compare in the first way alone, as dual encoders of retrieval do; there is no other head.
        """
        super().__init__(model)
        self.first = first
        for way in model.ways_alone[:1] if first else model.ways_alone:
            self.add_module(way, ContrastiveHead(model.width, model.init_std, model.contrast_width))

    def heads(self) -> list[ContrastiveHead]:
        """Return the head of each way that is compared in."""
        return list(self.named_heads().values())

    def named_heads(self) -> dict[str, ContrastiveHead]:
        """Return these heads by the names that checkpoints give them: ``itc``, and ``itc_pair`` of VLMo's second."""
        found = [(way, head) for way, head in self.named_children() if isinstance(head, ContrastiveHead)]
        return {self.name if not place else f"{self.name}_{way}": head for place, (way, head) in enumerate(found)}

    def vectors_of(self, model: Backbone, encoded: Encoded) -> Vectors:
        """Return the unit vectors (K, B, C) of a micro-batch."""
        texts = model.encode_alone(encoded.texts[self.views.text], "text", self.first)
        images = model.encode_alone(encoded.images[self.views.image], "image", self.first)
        return Vectors(
            torch.stack([head.embed_texts(text) for head, text in zip(self.heads(), texts, strict=True)]),
            torch.stack([head.embed_images(image) for head, image in zip(self.heads(), images, strict=True)]),
        )

    def compare(self, rows: Rows, micro_batches: int) -> Contrast:
        """Compare all rows of a step, once, without gradient of the weights."""
        with torch.no_grad():
            pairs = zip(self.heads(), rows.vectors.images, rows.vectors.texts, strict=True)
            similarities = [head(images, texts) for head, images, texts in pairs]
        loss, pulls = judge(similarities, rows)
        return Contrast(rows, loss, pulls, similarities[0], micro_batches)

    def forward(  # type: ignore[override]
        self, fused: Fused | None, batch: Pairs, vectors: Vectors, found: tuple[Contrast, Tensor]
    ) -> ObjectiveOutput:
        """Hand the step's gradient on to the vectors of a micro-batch, and to the temperatures.

        Args:
            fused: nothing; contrast needs no fusion.
            batch: B pairs.
            vectors: (K, B, C) of these, with gradient.
            found: the contrast of the step, and where the B rows stand in it (B,).

        Returns:
            The loss of the step.
        """
        del fused
        contrast, own = found
        everything, terms = contrast.rows.vectors, []
        for way, head in enumerate(self.heads()):
            pull = contrast.pulls[way]
            rows = head(vectors.images[way], everything.texts[way])  # (B, N)
            columns = head(everything.images[way], vectors.texts[way], learns_scale=False)  # (N, B)
            terms += [(pull[own] * rows).sum(), (pull[:, own] * columns).sum()]
        pulled = torch.stack(terms).sum() * contrast.micro_batches
        loss = contrast.loss + (pulled - pulled.detach())
        return ObjectiveOutput(loss, batch.valid.sum(), (self._score(contrast, own, batch.valid),))

    @staticmethod
    def _score(contrast: Contrast, own: Tensor, valid: Tensor) -> Score:
        """Count the images whose text comes first, and the texts whose image does."""
        rows = contrast.rows
        out = rows.same | ~rows.valid
        right = [
            (side.masked_fill(out, -torch.inf).amax(1) < side.diagonal())[own] & valid
            for side in (contrast.scores, contrast.scores.T)
        ]
        return Score("itc_accuracy", torch.stack(right).sum() / 2, valid.sum())


def find_contrast(objectives: Sequence[Objective]) -> ImageTextContrast | None:
    """Return the contrast among objectives, if it is one of them."""
    return next((objective for objective in objectives if isinstance(objective, ImageTextContrast)), None)
