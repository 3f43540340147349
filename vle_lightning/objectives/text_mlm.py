"""Masked language modelling on texts alone: restore masked words from the rest of the text."""

from __future__ import annotations

from torch import Tensor, nn

from vle_lightning.batch import TextBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.objectives.base import ObjectiveOutput
from vle_lightning.objectives.mlm import MaskedLanguageModelling


class TextMLM(nn.Module):
    """MLM by the text's own states, with MLM's head, from which training on pairs can start (VLMo, stage 2)."""

    score_names = MaskedLanguageModelling.score_names

    def __init__(self, model: Backbone, tied: bool = True) -> None:
        """Make the head; ``tied`` as in `MaskedLanguageModelling`."""
        super().__init__()
        self.head = MaskedLanguageModelling(model, tied)

    def states(self, model: Backbone, batch: TextBatch) -> Tensor:
        """Encode the masked texts: (B, T, D)."""
        return model.encode_unimodal(model.encode_text(batch.masked_input_ids, batch.attention_mask), "text")

    def forward(self, states: Tensor, batch: TextBatch) -> ObjectiveOutput:
        """Judge the K masked tokens of valid rows by the states (B, T, D)."""
        return self.head.judge(states, batch)
