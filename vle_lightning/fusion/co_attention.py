"""Co-attention fusion of two streams (METER, arXiv 2111.02387, section 3.2; VLE uses the same layers)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from vle_lightning.fusion.base import Ends, Fusion, FusionConfig
from vle_lightning.fusion.layers import Attention, FeedForward
from vle_lightning.streams import Stream


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
        self, states: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor, first: int | None = None
    ) -> Tensor:
        """Map states (B, N, D) to the same shape, reading the other stream (B, M, D).

        Where only the ``first`` states are asked for, (B, first, D), no others are computed; these read all.
        """
        asking = self.attention(states[:, :first], states, mask)
        read: Tensor = self.feed_forward(self.cross(asking, other, other_mask))
        return read


class CoAttention(Fusion):
    """Layers in which text and image streams read each other."""

    def __init__(self, config: CoAttentionConfig) -> None:
        super().__init__()
        self.text = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.layers))
        self.image = nn.ModuleList(CoAttentionLayer(config) for _ in range(config.layers))

    def stack(self) -> list[nn.Module]:
        """Return the transformer layers, the text's halves first."""
        return [*self.text, *self.image]

    def forward(self, text: Stream, image: Stream, ends: Ends = Ends()) -> tuple[Tensor, Tensor]:  # noqa: B008
        """Let B texts and B images read each other, layer by layer; see `Fusion.forward`."""
        text_states, image_states = text.states, image.states
        text_mask, image_mask = text.mask[:, None, None, :], image.mask[:, None, None, :]
        last = len(self.text) - 1
        for number, (text_layer, image_layer) in enumerate(zip(self.text, self.image, strict=True)):
            first = ends if number == last else Ends()
            text_states, image_states = (
                text_layer(text_states, text_mask, image_states, image_mask, first.text),
                image_layer(image_states, image_mask, text_states, text_mask, first.image),
            )
        return text_states, image_states

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect the text's cross-attention in the last layer; see `Fusion.watch`."""
        seen: list[Tensor] = []
        last = self.text[-1]
        assert isinstance(last, CoAttentionLayer)

        def collect(layer: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int | None]) -> None:
            states, mask, other, other_mask, _ = inputs
            assert isinstance(layer, CoAttentionLayer)
            seen.append(layer.cross.weights(layer.attention(states, states, mask), other, other_mask).detach())

        # on the layer, for a hook within it would not be met where it is compiled; so its self-attention runs twice
        handle = last.register_forward_pre_hook(collect)
        try:
            yield seen
        finally:
            handle.remove()
