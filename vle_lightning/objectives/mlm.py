"""Masked language modelling: restore masked words from the rest of the text and the clean image."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, PretrainBatch, TextBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import FloatNorm, initialise
from vle_lightning.objectives.base import Objective, ObjectiveOptions, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import ALL, NONE, Fused, FusedView, Reading, TextView

METER_EPS = 1e-12  # of the layer norm in METER's head


class MaskedLanguageModelling(Objective):
    """MLM with VLE's head, back to the word embeddings' width and tied to them, or METER's at the fusion's width.

    The head runs on the masked positions only, so the vocabulary costs nothing elsewhere.
    """

    name: ClassVar[str] = "mlm"
    score_names: ClassVar[tuple[str, ...]] = ("mlm_accuracy", "mlm_content_accuracy")
    views: ClassVar[FusedView] = FusedView(text=TextView.MASKED)

    @classmethod
    def build(cls, model: Backbone, options: ObjectiveOptions) -> Self:
        """Make the objective with a tied decoder or with one of its own."""
        return cls(model, options.tied)

    def __init__(self, model: Backbone, tied: bool = True) -> None:
        """Make the head; ``tied``: VLE's, else METER's."""
        super().__init__(model)
        width, eps = (model.text_width, model.norm_eps) if tied else (model.width, METER_EPS)
        to_words = [nn.Linear(model.width, width)] if tied else []
        self.transform = nn.Sequential(*to_words, nn.Linear(width, width), nn.GELU(), FloatNorm(width, eps=eps))
        self.decoder = nn.Linear(width, model.vocabulary)
        initialise(self, model.init_std)
        if tied:
            self.decoder.weight = model.word_embeddings.weight

    def logits(self, states: Tensor) -> Tensor:
        """Score every word for fused text states (K, D): (K, V)."""
        logits: Tensor = self.decoder(self.transform(states))
        return logits

    def reading(self, batch: PretrainBatch) -> Reading:
        """Read the text."""
        del batch
        return Reading(ALL, NONE)

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge the K masked tokens of valid rows."""
        return self.judge(fused.text, batch)

    def judge(self, states: Tensor, batch: PretrainBatch | TextBatch) -> ObjectiveOutput:
        """Judge the K masked tokens of valid rows by the states (B, T, D) of the masked texts."""
        places, judged = batch.masked_places, (batch.mlm_targets != IGNORED) & batch.valid[:, None]
        targets, chosen, content = (of.flatten()[places] for of in (batch.mlm_targets, judged, batch.mlm_content))
        logits = self.logits(states.flatten(0, 1)[places])
        right, content = (logits.argmax(-1) == targets) & chosen, content & chosen
        return ObjectiveOutput(
            mean_loss(F.cross_entropy(logits.float(), targets, reduction="none"), chosen),
            chosen.sum(),
            (
                Score("mlm_accuracy", right.sum(), chosen.sum()),
                Score("mlm_content_accuracy", (right & content).sum(), content.sum()),
            ),
        )
