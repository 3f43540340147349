"""Merged attention: one transformer over text and image together (METER, arXiv 2111.02387, section 3.2).

No code of it was ever released: docs/meter.md says what the paper shows and what is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vle_lightning.fusion.base import Fusion, FusionConfig
from vle_lightning.fusion.layers import Attention, FeedForward
from vle_lightning.streams import Part, Stream, place


@dataclass(frozen=True)
class MergedAttentionConfig(FusionConfig):
    """Merged attention; a layer has 12 D^2 weights, a pair of co-attention 32 D^2: 16 layers equal 6 pairs."""

    layers: int = 12

    def build(self) -> MergedAttention:
        """Make the module, its weights drawn at random."""
        return MergedAttention(self)


class MergedAttentionLayer(nn.Module):
    """Attend to both streams, then feed forward, with the same weights for text and image."""

    def __init__(self, config: MergedAttentionConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, states: Tensor, mask: Tensor, asking: Tensor | None = None) -> Tensor:
        """Map states (B, N, D) to the same shape; where only ``asking`` (B, M, D) is given, these alone read them."""
        read: Tensor = self.feed_forward(self.attention(states if asking is None else asking, states, mask))
        return read


class MergedAttention(Fusion):
    """Layers over the concatenation of a text and an image."""

    def __init__(self, config: MergedAttentionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MergedAttentionLayer(config) for _ in range(config.layers))

    def stack(self) -> list[nn.Module]:
        """Return the transformer layers."""
        return list(self.layers)

    def forward(self, text: Stream, image: Stream, parts: Sequence[Part] | None = None) -> tuple[Tensor, Tensor]:
        """Let B texts and B images read each other and themselves, layer by layer; see `Fusion.forward`."""
        states, mask = text.append(image)
        mask, tokens = mask[:, None, None, :], text.mask.shape[1]
        for layer in self.layers[:-1]:
            states = layer(states, mask)
        last, lengths = self.layers[-1], [tokens, states.shape[1] - tokens]
        if parts is None:
            found, seen = last(states, mask).split(lengths, dim=1)
            return found, seen
        texts, images = [], []
        rows = (tensor.split([part.rows for part in parts]) for tensor in (states, mask))
        for (_, reading), before, allowed in zip(parts, *rows, strict=True):
            streams = zip(before.split(lengths, dim=1), reading, strict=True)
            asked, looked = (states[:, places] for states, places in streams)
            read = last(before, allowed, torch.cat([asked, looked], dim=1))
            sizes = [asked.shape[1], looked.shape[1]]
            both = [place(*of) for of in zip(read.split(sizes, dim=1), reading, lengths, strict=True)]
            texts.append(both[0])
            images.append(both[1])
        return torch.cat(texts), torch.cat(images)

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect how much the text reads of the image in the last layer; the rest of a row goes to the text."""
        seen: list[Tensor] = []
        tokens = 0
        last = self.layers[-1]

        def measure(fusion: nn.Module, inputs: tuple[Stream, Stream]) -> None:
            nonlocal tokens
            tokens = inputs[0].mask.shape[1]

        def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states, mask = inputs[:2]
            assert isinstance(layer, MergedAttentionLayer)
            seen.append(layer.attention.weights(states[:, :tokens], states, mask)[..., tokens:].detach())

        handles = [self.register_forward_pre_hook(measure), last.register_forward_pre_hook(collect)]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()
