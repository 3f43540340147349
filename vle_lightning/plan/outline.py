"""A backbone that computes nothing and has the shapes of another one: it tells which calls a task makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import PatchMask
from vle_lightning.models.backbone import Backbone, BackboneConfig, Blind, Features, Modality
from vle_lightning.streams import Fused, ImageLayout, Part, Stream

WIDTH = 4


@dataclass(frozen=True)
class OutlineConfig(BackboneConfig):
    """What the calls of a task depend on."""

    layout: ImageLayout = ImageLayout(1, 16)
    max_tokens: int = 512
    pixels: int = 224
    token_types: int = 2
    doubled: bool = True  # a pair is pooled to a vector of each stream
    ways_alone: tuple[str, ...] = ("single",)
    alone_trains: bool = False  # encoding a modality by itself is a call of its own
    image_depth: int = 0  # layers of an image that is encoded alone

    @classmethod
    def of(cls, model: Backbone) -> Self:
        """Take the outline of a backbone."""
        rows = model.token_types.num_embeddings
        doubled = model.pooled_width > model.width
        size, ways = model.config.image_size, model.ways_alone
        depth, alone = model.image_depth, model.alone_trains
        return cls(model.layout, model.max_tokens, size, rows, doubled, ways, alone, depth)

    def build(self, blind: Blind = "none") -> Outline:
        """Make the module; ``blind`` masks one modality."""
        return Outline(self, blind)

    @property
    def image_size(self) -> int:
        """Pixels of the square pictures."""
        return self.pixels


class Outline(Backbone):
    """Zeros in the shapes that a backbone returns."""

    rates: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: OutlineConfig, blind: Blind) -> None:
        super().__init__(config, blind)
        self.width = self.text_width = self.hidden_width = WIDTH
        self.pooled_width = 2 * WIDTH if config.doubled else WIDTH
        self.ways_alone, self.contrast_width = config.ways_alone, WIDTH  # type: ignore[misc]
        self.layout, self.vocabulary, self.max_tokens = config.layout, 2, config.max_tokens
        self.init_std, self.norm_eps, self.padding = 0.02, 1e-5, None
        self.token_types = nn.Embedding(config.token_types, WIDTH)
        self.words = nn.Embedding(self.vocabulary, WIDTH)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """A table of two words."""
        return self.words

    @property
    def image_depth(self) -> int:
        """Return that of the other one."""
        assert isinstance(self.config, OutlineConfig)
        return self.config.image_depth

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return none."""
        return {}

    def part_of(self, name: str) -> str:
        """Count everything with the fusion."""
        del name
        return "fusion"

    def resize_images(self, image_size: int) -> None:
        """Take any pictures."""

    def encode_alone(self, stream: Stream, modality: Modality, first: bool = False) -> tuple[Stream, ...]:
        """Tell of the call, where it is one."""
        config = self.config
        assert isinstance(config, OutlineConfig)
        ways = 1 if first else len(self.ways_alone)
        if config.alone_trains:
            self._tell("text_alone" if modality == "text" else "image_alone", (*stream.mask.shape, ways))
        return (stream,) * ways

    def restore(self, fused: Fused, text: Stream, image: Stream, input_ids: Tensor) -> Tensor:
        """Tell of the call, as a backbone with a decoder does; without one it costs nothing."""
        self._tell("restore", (*text.mask.shape, image.mask.shape[1], input_ids.shape[1]))
        return fused.text

    def encode_unimodal(self, stream: Stream, modality: Modality) -> Tensor:
        """Tell of the call, where it is one."""
        config = self.config
        assert isinstance(config, OutlineConfig)
        if config.alone_trains:
            self._tell("text_single" if modality == "text" else "image_single", tuple(stream.mask.shape))
        return stream.states

    def reads(self, name: str, modality: Modality) -> bool:
        """Take all parameters to be read."""
        del name, modality
        return True

    def features(
        self, text: tuple[Tensor, Tensor] | None, pixel_values: Tensor | None, rows: Tensor | None = None
    ) -> Features:
        """Return none."""
        return Features(None, None, None)

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect nothing."""
        yield []

    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        return Stream(self._zeros(*input_ids.shape), attention_mask)

    def _encode_image(self, pixel_values: Tensor, hidden: PatchMask | None) -> Stream:
        rows, columns = self.layout.grid(pixel_values)
        shape = (len(pixel_values), self.layout.prefix + rows * columns)
        return Stream(self._zeros(*shape), torch.ones(shape, dtype=torch.bool))

    def _image_layers(self, pixel_values: Tensor, depths: Sequence[int]) -> list[Stream]:
        return [self._encode_image(pixel_values, None)] * len(depths)

    def _fuse(self, text: Stream, image: Stream, parts: Sequence[Part] | None) -> Fused:
        del parts
        return Fused(text.states, image.states, torch.zeros(len(text.mask), self.pooled_width, requires_grad=True))

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, WIDTH, requires_grad=True)
