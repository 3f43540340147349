"""Attention and feed-forward with a residual and a layer norm behind them, as BERT has them (arXiv 1810.04805)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.fusion.base import FusionConfig
from vle_lightning.projection import project


class Attention(nn.Module):
    """Multi-head attention with a residual and a layer norm after it."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Let states (B, N, D) read context (B, M, D) where mask, (B, 1, 1 or N, M) bool, is True."""
        if states is context:
            projected = project(states, self.query, self.key, self.value)
        else:
            projected = (self.query(states), *project(context, self.key, self.value))
        query, key, value = (self._by_head(part) for part in projected)
        dropout = self.attention_dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        output = self.output(read.transpose(1, 2).flatten(2))
        normed: Tensor = self.norm(states + F.dropout(output, self.dropout, self.training))
        return normed

    def weights(self, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Say how much each state reads of each part of the context: (B, H, N, M) float, rows that sum to one.

        `forward` leaves these to a fused kernel that does not hand them out; the arguments are the same.
        """
        query, key = self._by_head(self.query(states)).float(), self._by_head(self.key(context)).float()
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights: Tensor = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return weights

    def _by_head(self, states: Tensor) -> Tensor:
        """Split (B, N, D) into (B, H, N, D / H)."""
        split: Tensor = states.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split


class FeedForward(nn.Module):
    """Two linear layers with GELU between, a residual and a layer norm after."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.inner = nn.Linear(config.width, config.intermediate)
        self.output = nn.Linear(config.intermediate, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """Map states (B, N, D) to the same shape."""
        output = self.output(F.gelu(self.inner(states)))
        normed: Tensor = self.norm(states + F.dropout(output, self.dropout, self.training))
        return normed
