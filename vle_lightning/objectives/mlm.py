"""Masked language modelling: restore masked words from the rest of the text and the clean image."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.heads import FloatNorm, initialise
from vle_lightning.objectives.base import Objective, ObjectiveOutput, Score, mean_loss
from vle_lightning.streams import Fused, FusedView, TextView


class MaskedLanguageModelling(Objective):
    """MLM with VLE's head: back to the text tower's width, transform, decoder tied to the word embeddings.

    The head runs on the masked positions only, so the vocabulary costs nothing elsewhere.
    """

    name: ClassVar[str] = "mlm"
    score_names: ClassVar[tuple[str, ...]] = ("mlm_accuracy", "mlm_content_accuracy")
    views: ClassVar[FusedView] = FusedView(text=TextView.MASKED)

    def __init__(self, model: Backbone) -> None:
        super().__init__(model)
        text_width = model.text_width
        self.transform = nn.Sequential(
            nn.Linear(model.width, text_width),
            nn.Linear(text_width, text_width),
            nn.GELU(),
            FloatNorm(text_width, eps=model.norm_eps),
        )
        self.decoder = nn.Linear(text_width, model.vocabulary)
        initialise(self, model.init_std)
        self.decoder.weight = model.word_embeddings.weight

    def logits(self, states: Tensor) -> Tensor:
        """Score every word for fused text states (K, D): (K, V)."""
        logits: Tensor = self.decoder(self.transform(states))
        return logits

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge the K masked tokens of valid rows."""
        chosen = (batch.mlm_targets != IGNORED) & batch.valid[:, None]
        targets = batch.mlm_targets[chosen]
        logits = self.logits(fused.text[chosen])
        right, content = logits.argmax(-1) == targets, batch.mlm_content[chosen]
        return ObjectiveOutput(
            mean_loss(F.cross_entropy(logits.float(), targets, reduction="none")),
            chosen.sum(),
            (
                Score("mlm_accuracy", right.sum(), chosen.sum()),
                Score("mlm_content_accuracy", (right & content).sum(), content.sum()),
            ),
        )
