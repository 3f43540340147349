"""A decoder over fused states, for METER's encoder-decoder (arXiv 2111.02387, section 3.3).

No code of it was ever released: docs/meter.md says what the paper shows and what is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.fusion.base import FusionConfig
from vle_lightning.fusion.layers import Attention, FeedForward
from vle_lightning.parts import PartConfig
from vle_lightning.streams import Stream


@dataclass(frozen=True)
class DecoderConfig(PartConfig):
    """Sizes of the decoder; its width is the fusion's. A layer has 16 D^2 weights, half of a co-attention pair."""

    family: ClassVar[str] = "vle_lightning.fusion"

    layers: int = 2
    heads: int = 12
    intermediate: int = 3072
    dropout: float = 0.1
    max_positions: int = 512  # tokens that can be restored
    layer_norm_eps: float = 1e-12

    def build(self, width: int, word_width: int) -> Decoder:
        """Make the module, its weights drawn at random.

        Args:
            width: D, of the fusion.
            word_width: of the text encoder's word embeddings, which the decoder shares.

        Raises:
            UserError: the heads do not divide the width.
        """
        if width % self.heads:
            raise UserError(
                f"model.architecture.decoder: heads = {self.heads}: must divide the fusion's width = {width}"
            )
        return Decoder(self, width, word_width)


class DecoderLayer(nn.Module):
    """Attend to the tokens before, then to the fused pair, then feed forward."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.cross = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, states: Tensor, mask: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Map states (B, T, D) to the same shape, reading the fused pair (B, M, D)."""
        read: Tensor = self.feed_forward(self.cross(self.attention(states, states, mask), context, context_mask))
        return read


class Decoder(nn.Module):
    """Reads a fused pair from a start token on: its state stands for the pair, the following ones restore the text."""

    def __init__(self, config: DecoderConfig, width: int, word_width: int) -> None:
        super().__init__()
        sizes = FusionConfig(
            width, config.layers, config.heads, config.intermediate, config.dropout, 2, config.layer_norm_eps
        )
        self.words = nn.Linear(word_width, width)
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Embedding(config.max_positions, width)
        self.max_tokens = config.max_positions
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(config.layers))

    def forward(self, context: Stream, words: Tensor | None = None) -> Tensor:
        """Decode B fused pairs.

        Args:
            context: states (B, M, D) of text and image, and their mask.
            words: (B, T, word width) embeddings of the text that is restored; None: the start token alone is decoded.

        Returns:
            (B, 1 + T - 1, D): the start token's state, then those at the first T - 1 words. State t is made of the
            words before word t, and predicts it.
        """
        states = self.start.expand(len(context.mask), 1, -1)
        if words is not None:
            states = torch.cat([states, self.words(words[:, :-1])], dim=1)
        length = states.shape[1]
        states = states + self.positions.weight[:length]
        causal = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
        mask = context.mask[:, None, None, :]
        for layer in self.layers:
            states = layer(states, causal, context.states, mask)
        return states

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect what the start token reads in the last layer, one entry a pass: weights (B, H, 1, M)."""
        seen: list[Tensor] = []

        def collect(layer: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
            states, mask, context, context_mask = inputs
            assert isinstance(layer, DecoderLayer)
            asking = layer.attention(states, states, mask)[:, :1]
            seen.append(layer.cross.weights(asking, context, context_mask).detach())

        handle = self.layers[-1].register_forward_pre_hook(collect)
        try:
            yield seen
        finally:
            handle.remove()
