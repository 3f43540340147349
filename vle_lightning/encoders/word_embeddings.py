"""Word embeddings alone, without a layer: the baseline among METER's text encoders (arXiv 2111.02387, table 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import TextEncoder, TextEncoderConfig
from vle_lightning.streams import Stream


@dataclass(frozen=True)
class WordEmbeddingsConfig(TextEncoderConfig):
    """Sizes of BERT's embeddings; the defaults are bert-base-uncased."""

    vocab_size: int = 30_522
    max_positions: int = 512
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def build(self) -> WordEmbeddings:
        """Make the module, its weights drawn at random."""
        return WordEmbeddings(self)


class WordEmbeddings(TextEncoder):
    """Words and positions, added and normalised, as BERT begins (arXiv 1810.04805)."""

    def __init__(self, config: WordEmbeddingsConfig) -> None:
        super().__init__()
        self.width, self.vocabulary, self.max_tokens = config.width, config.vocab_size, config.max_positions
        self.norm_eps = config.layer_norm_eps
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, D) table."""
        return self.words

    @property
    def layers(self) -> nn.ModuleList:
        """No layers."""
        return nn.ModuleList()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Embed B texts: ids (B, T) int64, mask (B, T) bool; states (B, T, D)."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        states = self.dropout(self.norm(self.words(input_ids) + self.positions(places)))
        return Stream(states, attention_mask)
