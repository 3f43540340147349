"""Co-attention fusion of two streams (METER, arXiv 2111.02387, section 3.2; VLE uses the same layers)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vle_lightning.fusion.base import Fusion, FusionConfig
from vle_lightning.fusion.layers import Attention, FeedForward
from vle_lightning.streams import ALL, NONE, Part, Stream, place


@dataclass(frozen=True)
class CoAttentionConfig(FusionConfig):
    """Co-attention: each layer is a pair, one half for each stream; the defaults are VLE-base and METER."""

    def build(self) -> CoAttention:
        """Make the module, its weights drawn at random."""
        return CoAttention(self)


class CoAttentionLayer(nn.Module):
    """One stream's half of a layer: attend to itself, then to the other stream's previous states, then feed forward."""

    def __init__(self, config: CoAttentionConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.cross = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, states: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor, asking: Tensor | None = None
    ) -> Tensor:
        """Map states (B, N, D) to the same shape, reading the other stream (B, M, D).

        Where only ``asking`` (B, K, D) is given, these of the states alone are mapped; they read all.
        """
        attended = self.attention(states if asking is None else asking, states, mask)
        read: Tensor = self.feed_forward(self.cross(attended, other, other_mask))
        return read


def _ask(layer: nn.Module, places: slice, streams: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Map those of the first stream's states that are read; zeros stand for the others."""
    states = streams[0]
    if places == NONE:
        return torch.zeros_like(states)
    asking = None if places == ALL else states[:, places]
    return place(layer(*streams, asking), places, states.shape[1])


class CoAttention(Fusion):
    """Layers in which text and image streams read each other."""

    def __init__(self, config: CoAttentionConfig) -> None:
        super().__init__()
        self.text = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.layers))
        self.image = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.layers))

    def stack(self) -> list[nn.Module]:
        """Return the transformer layers, the text's halves first."""
        return [*self.text, *self.image]

    def forward(self, text: Stream, image: Stream, parts: Sequence[Part] | None = None) -> tuple[Tensor, Tensor]:
        """Let B texts and B images read each other, layer by layer; see `Fusion.forward`."""
        text_states, image_states = text.states, image.states
        text_mask, image_mask = text.mask[:, None, None, :], image.mask[:, None, None, :]
        last = len(self.text) - 1
        for number, (text_layer, image_layer) in enumerate(zip(self.text, self.image, strict=True)):
            if number == last and parts is not None:
                break
            text_states, image_states = (
                text_layer(text_states, text_mask, image_states, image_mask),
                image_layer(image_states, image_mask, text_states, text_mask),
            )
        if parts is None:
            return text_states, image_states
        sizes = [part.rows for part in parts]
        streams = text_states, text_mask, image_states, image_mask
        before = zip(*(tensor.split(sizes) for tensor in streams), strict=True)
        found = [
            (
                _ask(self.text[last], part.reading.text, (states, mask, seen, seen_mask)),
                _ask(self.image[last], part.reading.image, (seen, seen_mask, states, mask)),
            )
            for part, (states, mask, seen, seen_mask) in zip(parts, before, strict=True)
        ]
        texts, images = zip(*found, strict=True)
        return torch.cat(texts), torch.cat(images)

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect the text's cross-attention in the last layer; see `Fusion.watch`."""
        seen: list[Tensor] = []
        last = self.text[-1]
        assert isinstance(last, CoAttentionLayer)

        def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states, mask, other, other_mask = inputs[:4]
            assert isinstance(layer, CoAttentionLayer)
            seen.append(layer.cross.weights(layer.attention(states, states, mask), other, other_mask).detach())

        # on the layer, for a hook within it would not be met where it is compiled; so its self-attention runs twice
        handle = last.register_forward_pre_hook(collect)
        try:
            yield seen
        finally:
            handle.remove()
