"""Co-attention fusion of two streams (METER, arXiv 2111.02387, section 3.2; VLE uses the same layers)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.streams import Stream


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of the fusion encoder; the defaults are VLE-base.

    ``token_types`` counts the embeddings that tell text (0), image (1) and VCR's tagged objects (2 and up) apart.
    """

    width: int = 768
    layers: int = 6
    heads: int = 12
    intermediate: int = 3072
    dropout: float = 0.1
    token_types: int = 24
    layer_norm_eps: float = 1e-12
    attention_dropout: float | None = None  # like dropout


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
        """Let states (B, N, D) read context (B, M, D) where mask, (B, 1, 1, M) bool, is True."""
        query, key, value = (
            self._by_head(layer(source))
            for layer, source in ((self.query, states), (self.key, context), (self.value, context))
        )
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


class CoAttentionLayer(nn.Module):
    """One stream's half of a layer: attend to itself, then to the other stream's previous states, then feed forward."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.cross = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, states: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor, first: int | None = None
    ) -> Tensor:
        """Map states (B, N, D) to the same shape, reading the other stream (B, M, D).

        Where only the ``first`` states are asked for, (B, first, D), no others are computed; these read all.
        """
        asking = self.attention(states[:, :first], states, mask)
        read: Tensor = self.feed_forward(self.cross(asking, other, other_mask))
        return read


class CoAttentionFusion(nn.Module):
    """Layers in which text and image streams read each other."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.text = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.layers))
        self.image = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.layers))

    def forward(self, text: Stream, image: Stream) -> tuple[Tensor, Tensor]:
        """Let the two streams attend to each other, layer by layer.

        Args:
            text: B text streams; states (B, T, D), mask (B, T).
            image: B image streams; states (B, P, D), mask (B, P). Item i is fused with text i.

        Returns:
            Fused states (B, T, D) and (B, P, D).
        """
        text_states, image_states = text.states, image.states
        text_mask, image_mask = text.mask[:, None, None, :], image.mask[:, None, None, :]
        for text_layer, image_layer in zip(self.text, self.image, strict=True):
            text_states, image_states = (
                text_layer(text_states, text_mask, image_states, image_mask),
                image_layer(image_states, image_mask, text_states, text_mask),
            )
        return text_states, image_states


@contextmanager
def watch(fusion: CoAttentionFusion) -> Iterator[list[Tensor]]:
    """Collect where the text looks: its cross-attention in the last layer, one entry a pass, while the context lasts.

    Outside of it nothing is computed or kept.

    Yields:
        Weights (B, H, T, N) of each pass: of B texts' tokens over CLS, patches and regions of their images.
    """
    seen: list[Tensor] = []
    last = fusion.text[-1]
    assert isinstance(last, CoAttentionLayer)

    def collect(layer: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        states, mask, other, other_mask = inputs
        assert isinstance(layer, CoAttentionLayer)
        seen.append(layer.cross.weights(layer.attention(states, states, mask), other, other_mask).detach())

    # on the layer, for a hook within it would not be met where it is compiled; so its self-attention runs twice
    handle = last.register_forward_pre_hook(collect)
    try:
        yield seen
    finally:
        handle.remove()
