"""The dual-stream backbone of VLE and METER: a text encoder, an image encoder, their fusion, and maybe a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import ImageEncoderConfig, PatchMask, TextEncoderConfig
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.errors import UserError
from vle_lightning.fusion.base import FusionConfig
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.fusion.decoder import DecoderConfig
from vle_lightning.models.backbone import Backbone, BackboneConfig, Blind, Features, Modality
from vle_lightning.models.heads import Pooler, initialise
from vle_lightning.streams import ALL, FIRST, Fused, Part, Stream


@dataclass(frozen=True)
class DualStreamConfig(BackboneConfig):
    """The parts of a dual stream; the defaults are VLE-base."""

    text: TextEncoderConfig = field(default_factory=DebertaConfig)
    image: ImageEncoderConfig = field(default_factory=ClipViTConfig)
    fusion: FusionConfig = field(default_factory=CoAttentionConfig)
    init_std: float = 0.02  # of all new weights
    decoder: DecoderConfig | None = None  # METER's encoder-decoder; None: encoder-only

    def build(self, blind: Blind = "none") -> DualStream:
        """Make the module, its weights drawn at random; ``blind`` masks one modality."""
        return DualStream(self, blind)

    @property
    def image_size(self) -> int:
        """Pixels of the square pictures that the positions are made for."""
        return self.image.image_size

    def resized(self, image_size: int) -> Self:
        """Return the configuration of the same network for other pictures."""
        return replace(self, image=replace(self.image, image_size=image_size))

    def least_weights(self) -> int:
        """Return a lower bound of the number of parameters, as far as the parts tell their sizes."""
        least = self.text.vocab_size * self.text.width
        for part in (self.text, self.image, self.fusion):
            layers, width, inner = (getattr(part, name, 0) for name in ("layers", "width", "intermediate"))
            least += layers * width * (4 * width + 2 * inner)
        return least


class DualStream(Backbone):
    """Two encoders, each projected to the fusion's width, and the fusion of their streams.

    A pair is pooled to two vectors side by side, of the text's first state and of the image's first state (or of the
    mean of its states, as the image encoder asks). With a decoder it is the state of the decoder's start token.
    """

    rates: ClassVar[Mapping[str, str]] = {
        "text.": "tower",
        "image.": "tower",
        "text_projection.": "projection",
        "image_projection.": "projection",
        "token_types.": "token_type",
    }

    config: DualStreamConfig

    def __init__(self, config: DualStreamConfig, blind: Blind = "none") -> None:
        super().__init__(config, blind)
        width = config.fusion.width
        self.text = config.text.build()
        self.image = config.image.build()
        self.text_projection = nn.Linear(self.text.width, width)
        self.image_projection = nn.Linear(self.image.width, width)
        self.token_types = nn.Embedding(config.fusion.token_types, width)
        self.fusion = config.fusion.build()
        words = self.text.word_embeddings.embedding_dim  # ELECTRA and ALBERT project them to the encoder's width
        self.decoder = None if config.decoder is None else config.decoder.build(width, words)
        if self.decoder is None:
            self.text_pooler = Pooler(width)
            self.image_pooler = Pooler(width)
        self.width, self.pooled_width = width, width if self.decoder else 2 * width
        restored = self.text.max_tokens if self.decoder is None else self.decoder.max_tokens
        self.vocabulary, self.max_tokens = self.text.vocabulary, min(self.text.max_tokens, restored)
        self.padding, self.text_width, self.norm_eps = self.text.padding, words, self.text.norm_eps
        self.layout, self.hidden_width = self.image.layout, self.image.hidden_width
        self.pixels = self.image.pixels
        self.init_std = config.init_std
        initialise(self, config.init_std)
        self.image.draw_positions()
        masked: dict[Blind, tuple[nn.Module, ...]] = {
            "none": (),
            "image": (self.image, self.image_projection),
            "text": (self.text, self.text_projection),
        }
        for part in masked[blind]:
            part.requires_grad_(False)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, text_width) table of the text encoder."""
        return self.text.word_embeddings

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the transformer layers of the text encoder, the image encoder, and of fusion and decoder."""
        decoder = [] if self.decoder is None else list(self.decoder.layers)
        return {
            "text": list(self.text.layers),
            "image": list(self.image.layers),
            "fusion": [*self.fusion.stack(), *decoder],
        }

    def part_of(self, name: str) -> str:
        """Return the part of a parameter: projections belong to their encoder."""
        first = name.split(".")[0].removesuffix("_projection")
        return first if first in ("text", "image") else "fusion"

    def resize_images(self, image_size: int) -> None:
        """Make learned positions those of square pictures of so many pixels."""
        if image_size != self.config.image_size:
            self.image.resize(image_size)
            self.config = replace(self.config, image=self.image.config)

    def encode_alone(self, stream: Stream, modality: Modality, first: bool = False) -> tuple[Stream, ...]:
        """Return the projected stream; of images that are pooled by their mean, this mean."""
        del first  # there is one way
        if modality == "text" or not self.image.mean_pooled or self.blind == "image":
            return (stream,)
        return (Stream(_mean(stream.states, stream.mask)[:, None], stream.mask[:, :1]),)

    def restore(self, fused: Fused, text: Stream, image: Stream, input_ids: Tensor) -> Tensor:
        """Return the states that predict the tokens of a text: the decoder's, where there is one."""
        if self.decoder is None:
            return super().restore(fused, text, image, input_ids)
        self._tell("restore", (*text.mask.shape, image.mask.shape[1], input_ids.shape[1]))
        context = self._context(fused.text, text, fused.image, image)
        restored: Tensor = self.decoder(context, self.word_embeddings(input_ids))
        return restored

    def features(
        self, text: tuple[Tensor, Tensor] | None, pixel_values: Tensor | None, rows: Tensor | None = None
    ) -> Features:
        """Return the encoders' states before projection, and the fused pairs; see `Backbone.features`."""
        texts = None if text is None else self.text(*text)
        images = None if pixel_values is None else self.image(pixel_values)
        images = images if images is None or rows is None else images.select(rows)
        if texts is None or images is None:
            return Features(texts, images, None)
        fused = self.fuse(
            Stream(self.text_projection(texts.states), texts.mask),
            Stream(self.image_projection(images.states), images.mask),
        )
        return Features(texts, images, fused)

    @property
    def image_depth(self) -> int:
        """Return the number of the image encoder's layers."""
        return len(self.image.layers)

    def _image_layers(self, pixel_values: Tensor, depths: Sequence[int]) -> list[Stream]:
        """Watch the image encoder's layers; the last ones run, too, where nothing is asked of them."""
        seen: list[Tensor] = []

        def keep(layer: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen.append(output if isinstance(output, Tensor) else output[0])

        handles = [self.image.layers[depth - 1].register_forward_hook(keep) for depth in depths]
        try:
            last = self.image(pixel_values)
        finally:
            for handle in handles:
                handle.remove()
        if any(states.shape[:2] != last.mask.shape for states in seen):
            raise UserError(
                f"model.architecture.image: a {type(self.image).__name__} in stages has layers of different grids; "
                "image classification and segmentation need one whose layers all see the same patches"
            )
        return [Stream(states, last.mask) for states in seen]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the text encoder and the image encoder."""
        return {"text": self.text, "image": self.image}

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect where text, or the decoder's start token, looks in the last layer; see `Backbone.watch`."""
        if self.decoder is None:
            with self.fusion.watch() as seen:
                yield seen
            return
        found: list[Tensor] = []
        lengths: list[int] = []

        def measure(fusion: nn.Module, inputs: tuple[Stream, Stream]) -> None:
            lengths.append(inputs[0].mask.shape[1])

        handle = self.fusion.register_forward_pre_hook(measure)
        try:
            with self.decoder.watch() as seen:
                yield found
                found += [weights[..., tokens:] for weights, tokens in zip(seen, lengths, strict=True)]
        finally:
            handle.remove()

    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        states, mask = self.text(input_ids, attention_mask)
        return Stream(self.text_projection(states), mask)

    def _encode_image(self, pixel_values: Tensor, hidden: PatchMask | None) -> Stream:
        states, mask = self.image(pixel_values, hidden)
        return Stream(self.image_projection(states), mask)

    def _fuse(self, text: Stream, image: Stream, parts: Sequence[Part] | None) -> Fused:
        if parts is not None:
            parts = None if self.decoder is not None else [self._pooling(part) for part in parts]
        text_states, image_states = self.fusion(text, image, parts)
        if self.decoder is not None:
            return Fused(
                text_states, image_states, self.decoder(self._context(text_states, text, image_states, image))[:, 0]
            )
        if parts is not None and not any(part.reading.pools for part in parts):
            return Fused(text_states, image_states, text_states.new_zeros(len(text_states), self.pooled_width))
        return Fused(text_states, image_states, self._pooled(text_states, image_states, image.mask))

    def _pooling(self, part: Part) -> Part:
        """Let an image that is pooled by its mean be read as a whole."""
        if not self.image.mean_pooled or part.reading.image != FIRST:
            return part
        return part._replace(reading=part.reading._replace(image=ALL))

    def _pooled(self, text_states: Tensor, image_states: Tensor, image_mask: Tensor) -> Tensor:
        first = image_states[:, 0]
        if self.image.mean_pooled:
            first = _mean(image_states, image_mask)
        return torch.cat([self.text_pooler(text_states[:, 0]), self.image_pooler(first)], dim=-1)

    def _context(self, text_states: Tensor, text: Stream, image_states: Tensor, image: Stream) -> Stream:
        return Stream(text_states, text.mask).append(Stream(image_states, image.mask))


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)
