"""The interface of every backbone: what tasks, objectives, pipelines and plans ask of a model, and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from math import gcd
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import PatchMask, PixelFacts
from vle_lightning.errors import UserError
from vle_lightning.models.regions import pool_patches
from vle_lightning.parts import PartConfig
from vle_lightning.streams import POOLED, Fused, ImageLayout, Part, Stream

TEXT_TYPE, IMAGE_TYPE = 0, 1  # rows of the token-type table; tagged objects take the following ones

Modality = Literal["text", "image"]
Blind = Literal["none", "image", "text"]  # the masked modality of a baseline
Framing = Literal["squeeze", "centre"]  # of a picture that is no square: all of it, or its central square
Alone = Literal["text_alone", "image_alone", "text_single", "image_single", "image_layers"]
Way = Literal["text", "image", "fusion", "restore"] | Alone


class EncoderCall(NamedTuple):
    """One call of a backbone, as far as its cost goes."""

    way: Way  # the method: encode_text, encode_image, ..., image_layers; single: encode_unimodal; alone: encode_alone
    sizes: tuple[int, ...]
    # text: B, T; image: B, height, width; restore: B, T, N, tokens; alone: B, N, ways; single: B, N;
    # image_layers: B, height, width, the last layer; fusion: B, T, N, and for each part its rows, how many states of
    # the text are read, and the first and the end of those of the image

    @property
    def unit(self) -> int:
        """Return the largest number that divides the rows of the call and of each of its parts."""
        return gcd(*(self.sizes[place] for place in self._places()))

    def scaled(self, units: int) -> EncoderCall:
        """Return the call of ``units`` micro-batches of as few rows as keep the shares of its parts."""
        sizes, unit = list(self.sizes), self.unit
        for place in self._places():
            sizes[place] = sizes[place] // unit * units
        return self._replace(sizes=tuple(sizes))

    def _places(self) -> tuple[int, ...]:
        """Return where rows stand among the sizes."""
        return (0, *range(3, len(self.sizes), 4)) if self.way == "fusion" else (0,)


class Features(NamedTuple):
    """What a backbone makes of texts, of images, and of both."""

    text: Stream | None  # (B, T, width of the text encoder)
    image: Stream | None  # (B, prefix + P, width of the image encoder)
    fused: Fused | None  # of the pairs


class Adapted(NamedTuple):
    """Weights of a network that differs in what a backbone can make up for."""

    weights: dict[str, Tensor]  # by name, such as the backbone has them
    settled: tuple[str, ...] = ()  # options of the configuration whose difference this makes up for
    resized: tuple[str, ...] = ()  # what was cut or extended, for the report
    new: Mapping[str, tuple[str, ...]] = {}  # what the weights lack -> the tensors that stay as they were drawn


@dataclass(frozen=True)
class BackboneConfig(PartConfig):
    """Base of all backbones' configurations."""

    family: ClassVar[str] = "vle_lightning.models"
    abstract: ClassVar[bool] = True

    def build(self, blind: Blind = "none") -> Backbone:
        """Make the module, its weights drawn at random; ``blind`` masks one modality."""
        raise TypeError(f"{type(self).__name__} does not define build")

    @property
    def image_size(self) -> int:
        """Pixels of the square pictures that the positions are made for."""
        raise TypeError(f"{type(self).__name__} does not define image_size")

    def resized(self, image_size: int) -> Self:
        """Return the configuration of the same network for other pictures."""
        raise TypeError(f"{type(self).__name__} does not define resized")

    def part_of_call(self, way: Way) -> str:
        """Return the part that a call is counted with: text, image or fusion."""
        return "image" if way == "image_layers" else way if way in ("text", "image") else "fusion"

    def least_weights(self) -> int:
        """Return a lower bound of the number of parameters, by arithmetic: building it could take all memory."""
        return 0


class Backbone(nn.Module):
    """Encode once, fuse as often as needed.

    A masked modality (``blind``) is one zero state: its encoder does not run and does not train.

    Attributes:
        width: D, of the fused states.
        pooled_width: of the pooled vector of a pair, which heads of classification read.
        vocabulary: rows of the word table.
        max_tokens: of a text.
        padding: the token id that the text encoder takes for padding; None: it reads the mask alone.
        layout: where the patches lie in an image stream.
        hidden_width: of the vector that stands for a hidden patch.
        pixels: how the pixels are normalised.
        text_width: of the word embeddings.
        norm_eps: of the text encoder's layer norms.
        init_std: standard deviation that new weights are drawn with.
        ways_alone: names of the ways in which `encode_alone` encodes a modality by itself.
        alone_trains: has weights that no fusion reads, only `encode_alone`.
        contrast_width: of the vectors that contrast compares.
    """

    ways_alone: ClassVar[tuple[str, ...]] = ("single",)
    alone_trains: ClassVar[bool] = False
    contrast_width: int = 256  # ALBEF's (arXiv 2107.07651)
    types_option: ClassVar[str] = "fusion.token_types"  # of the configuration: the rows of the token-type table
    framing: ClassVar[Framing] = "centre"  # of pictures whose checkpoint does not say: METER's, whose files are bare
    rates: ClassVar[Mapping[str, str]]  # beginning of a parameter's name -> learning-rate group; all else is "fusion"

    width: int
    pooled_width: int
    vocabulary: int
    max_tokens: int
    padding: int | None
    layout: ImageLayout
    hidden_width: int
    pixels: PixelFacts
    text_width: int
    norm_eps: float
    init_std: float
    token_types: nn.Embedding  # (rows, D): text 0, image 1, tagged objects from 2 on

    def __init__(self, config: BackboneConfig, blind: Blind) -> None:
        super().__init__()
        self.config, self.blind = config, blind
        self._watchers: list[Callable[[EncoderCall], None]] = []

    @abstractmethod
    def layers(self) -> Mapping[str, list[nn.Module]]:
        """Return the transformer layers of each part: what is sharded, recomputed and compiled one by one."""

    @abstractmethod
    def part_of(self, name: str) -> str:
        """Return the part that a parameter, by its name in the backbone, is counted with: a key of `layers`."""

    @property
    @abstractmethod
    def word_embeddings(self) -> nn.Embedding:
        """The (V, text_width) table that a vocabulary head may tie its decoder to."""

    @abstractmethod
    def resize_images(self, image_size: int) -> None:
        """Make learned positions those of square pictures of so many pixels; others may still be interpolated.

        Raises:
            UserError: the image encoder cannot take such pictures.
        """

    def reshape_images(self, image_size: int) -> None:
        """Make room for the learned positions of such pictures; their values are loaded next."""
        self.resize_images(image_size)

    def adapt(self, weights: Mapping[str, Tensor], source: BackboneConfig) -> Adapted:
        """Make up for what a network lacks or has in excess that this one may start from all the same.

        Args:
            weights: of the network, by the names here.
            source: its configuration.
        """
        del source
        return Adapted(dict(weights))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Encode B texts (B, T), mask True on real tokens, to a stream (B, T, D)."""
        if self.blind == "text":
            return self._masked(len(input_ids))
        self._tell("text", input_ids.shape)
        return self._encode_text(input_ids, attention_mask)

    def encode_image(self, pixel_values: Tensor, hidden: PatchMask | None = None) -> Stream:
        """Encode B images (B, 3, H, W), some of whose patches may be hidden, to a stream (B, prefix + P, D)."""
        if self.blind == "image":
            return self._masked(len(pixel_values))
        self._tell("image", (len(pixel_values), *pixel_values.shape[-2:]))
        return self._encode_image(pixel_values, hidden)

    def encode_unimodal(self, stream: Stream, modality: Modality) -> Tensor:
        """Return the states of a modality by itself, from which its own objectives predict.

        Where each modality has an encoder they are its stream: encoded, and projected to the fusion's width.

        Args:
            stream: B rows of `encode_text` or `encode_image`.
            modality: which one.

        Returns:
            (B, N, D), after the last norm where there is one behind the last layer.
        """
        del modality
        return stream.states

    def reads(self, name: str, modality: Modality) -> bool:
        """Say whether `encode_unimodal` of a modality reads a parameter, by its name in the backbone."""
        return name.startswith((f"{modality}.", f"{modality}_projection."))

    def encode_alone(self, stream: Stream, modality: Modality, first: bool = False) -> tuple[Stream, ...]:
        """Encode B texts or images by themselves, for contrast: a stream for each of `ways_alone`.

        Args:
            stream: of `encode_text` or `encode_image`.
            modality: which one.
            first: in the first way alone.

        Returns:
            Streams whose first state stands for the whole; of dual streams the one that was given.
        """
        del modality, first
        return (stream,)

    def fuse(
        self,
        text: Stream,
        image: Stream,
        text_types: Tensor | None = None,
        image_types: Tensor | None = None,
        parts: Sequence[Part] | None = None,
    ) -> Fused:
        """Let B texts and B images read each other.

        Args:
            text: states (B, T, D), mask (B, T).
            image: states (B, N, D), mask (B, N); N is prefix + P, and R more where regions are appended.
            text_types: (B, T) int64 rows of the token-type table; all 0 by default.
            image_types: (B, N) likewise; all 1 by default.
            parts: what is read of consecutive rows, B in all; everything by default.

        Returns:
            Fused states (B, T, D) and (B, N, D), and the pooled vector (B, pooled_width), as far as they are read.
        """
        sizes = (*text.mask.shape, image.mask.shape[1])
        read = () if parts is None else tuple(chain(*(_sizes(part, *sizes[1:]) for part in parts)))
        self._tell("fusion", (*sizes, *read))
        types = self._typed(text, text_types, TEXT_TYPE), self._typed(image, image_types, IMAGE_TYPE)
        return self._fuse(*types, parts)

    def pool_pairs(
        self, text: Stream, image: Stream, text_types: Tensor | None = None, image_types: Tensor | None = None
    ) -> Tensor:
        """Compute ``fuse(text, image).pooled`` without the states of the last layer that no pooler reads."""
        return self.fuse(text, image, text_types, image_types, (Part(len(text.mask), POOLED),)).pooled

    def restore(self, fused: Fused, text: Stream, image: Stream, input_ids: Tensor) -> Tensor:
        """Return the states that predict the tokens of a text of which some were masked.

        Args:
            fused: of the masked text and its image.
            text: as it was fused: for its mask.
            image: likewise.
            input_ids: (B, T) the clean text. A decoder reads the tokens before the one that it predicts; without a
                decoder the fused states predict.

        Returns:
            (B, T, D).
        """
        del text, image, input_ids
        return fused.text

    @abstractmethod
    def watch(self) -> AbstractContextManager[list[Tensor]]:
        """Collect where the pooled vector looks, one entry a fusion, while the context lasts.

        Yields:
            Weights (B, heads, 1 or T, N) over the states of B images; row 0 is the one that is pooled.
        """

    @abstractmethod
    def features(
        self, text: tuple[Tensor, Tensor] | None, pixel_values: Tensor | None, rows: Tensor | None = None
    ) -> Features:
        """Return the states of single modalities and of their pairs, as far as both are given.

        Args:
            text: ids (B, T) and mask (B, T) of texts.
            pixel_values: (I, 3, H, W) of images.
            rows: (B,) int64: the image of each row; row by row by default.
        """

    @property
    def image_depth(self) -> int:
        """Return how many layers an image passes that is encoded alone; 0: it cannot be."""
        return 0

    def image_layers(self, pixel_values: Tensor, depths: Sequence[int]) -> list[Stream]:
        """Encode B images alone, and return their states behind some of the layers, before any last norm.

        Args:
            pixel_values: (B, 3, H, W), normalised.
            depths: how many layers each of the returned states has passed, rising, from 1 to `image_depth`.

        Returns:
            For each depth states (B, prefix + P, D), D the width of the image's path; patches lie as `layout` says.

        Raises:
            UserError: a part of this backbone does not give such states, or there is no such layer.
        """
        if not self.image_depth:
            raise UserError(f"model.architecture: a {type(self).__name__} does not encode images alone, layer by layer")
        if not depths or not 0 < depths[0] <= depths[-1] <= self.image_depth or list(depths) != sorted(set(depths)):
            raise UserError(
                f"layers {list(depths)} of the image's path are asked for; give rising numbers from 1 to "
                f"{self.image_depth}"
            )
        self._tell("image_layers", (len(pixel_values), *pixel_values.shape[-2:], depths[-1]))
        return self._image_layers(pixel_values, depths)

    def encoders(self) -> Mapping[str, nn.Module]:
        """Return the encoders that may start from weights of their own, by modality: text and image, or none."""
        return {}

    def pool_regions(self, image: Stream, patches: Tensor, valid: Tensor) -> Stream:
        """Average the encoded patches of tagged objects.

        Args:
            image: B image streams (B, prefix + P, D).
            patches: (B, R, P) bool, the patches of each region (see `box_patches`).
            valid: (B, R) bool.

        Returns:
            B streams of R regions; of none where the image is masked. A valid region without patches is NaN, the mean
            of nothing, as in the published code: mark it as not valid to leave it out.
        """
        if self.blind == "image":
            return Stream(image.states[:, :0], image.mask[:, :0])
        states = pool_patches(image.states[:, self.layout.prefix :], patches)
        return Stream(states.masked_fill((valid & ~patches.any(-1))[..., None], torch.nan), valid)

    @contextmanager
    def calls(self) -> Iterator[list[EncoderCall]]:
        """Collect the calls of this backbone while the context lasts."""
        seen: list[EncoderCall] = []
        self._watchers.append(seen.append)
        try:
            yield seen
        finally:
            self._watchers.remove(seen.append)

    @abstractmethod
    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Stream: ...

    @abstractmethod
    def _encode_image(self, pixel_values: Tensor, hidden: PatchMask | None) -> Stream: ...

    @abstractmethod
    def _fuse(self, text: Stream, image: Stream, parts: Sequence[Part] | None) -> Fused: ...

    def _image_layers(self, pixel_values: Tensor, depths: Sequence[int]) -> list[Stream]:
        raise TypeError(f"{type(self).__name__} has an image_depth, but does not define _image_layers")

    def _typed(self, stream: Stream, types: Tensor | None, default: int) -> Stream:
        added = self.token_types.weight[default] if types is None else self.token_types(types)
        return Stream(stream.states + added, stream.mask)

    def _masked(self, rows: int) -> Stream:
        weight = self.token_types.weight
        return Stream(weight.new_zeros(rows, 1, self.width), weight.new_ones(rows, 1, dtype=torch.bool))

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Tell nobody of the calls while the context lasts: they make again what is made later."""
        watchers, self._watchers = self._watchers, []
        try:
            yield
        finally:
            self._watchers = watchers

    def _tell(self, way: Way, sizes: tuple[int, ...]) -> None:
        for watcher in self._watchers:
            watcher(EncoderCall(way, tuple(sizes)))


def _sizes(part: Part, tokens: int, states: int) -> tuple[int, int, int, int]:
    """Return rows, the number of tokens that are read, and the first and the end of the states of the image."""
    start, stop, _ = part.reading.image.indices(states)
    return part.rows, part.reading.text.indices(tokens)[1], start, stop
