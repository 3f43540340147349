"""What every text and image encoder is: a configuration that builds a module, and what models ask of that module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.parts import PartConfig
from vle_lightning.streams import ImageLayout, Stream

UNLIMITED = 2**31  # tokens of a text where positions are relative
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue in [0, 1] (openai/CLIP)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class PixelFacts(NamedTuple):
    """How pixels in [0, 1] are normalised: by the mean and standard deviation of red, green and blue."""

    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @property
    def black(self) -> list[float]:
        """Return the normalised colours of a black pixel."""
        return [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]


@dataclass(frozen=True)
class TextEncoderConfig(PartConfig):
    """Sizes of a text encoder. A subclass adds its own and builds the module."""

    family: ClassVar[str] = "vle_lightning.encoders"
    abstract: ClassVar[bool] = True

    vocab_size: int = 128_100
    width: int = 768

    def build(self) -> TextEncoder:
        """Make the module, its weights drawn at random."""
        raise TypeError(f"{type(self).__name__} does not define build")


class TextEncoder(nn.Module):
    """Token ids in, states out."""

    width: int
    vocabulary: int  # rows of the word table
    max_tokens: int  # of a text that there are positions for
    padding: int | None = None  # the id that the encoder takes for padding; None: it reads the mask alone
    norm_eps: float = 1e-7  # of its layer norms, which the head of MLM shares

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, D) table that a vocabulary head may tie its decoder to."""
        raise TypeError(f"{type(self).__name__} does not define word_embeddings")

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last: what is sharded, recomputed and compiled one by one."""
        raise TypeError(f"{type(self).__name__} does not define layers")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Encode B texts: ids (B, T) int64, mask (B, T) bool; states (B, T, D)."""
        raise TypeError(f"{type(self).__name__} does not define forward")


@dataclass(frozen=True)
class ImageEncoderConfig(PartConfig):
    """Sizes of an image encoder. A subclass adds its own and builds the module."""

    family: ClassVar[str] = "vle_lightning.encoders"
    abstract: ClassVar[bool] = True

    image_size: int = 224

    def build(self) -> ImageEncoder:
        """Make the module, its weights drawn at random."""
        raise TypeError(f"{type(self).__name__} does not define build")


class PatchMask(NamedTuple):
    """Patches to hide from an image encoder."""

    patches: Tensor  # (B, P) bool
    vector: Tensor | None  # (D,) what stands in their place before the position embedding; None: black pixels


class ImageEncoder(nn.Module):
    """Pixels in, states of patches out, row by row, after the class token where there is one."""

    config: ImageEncoderConfig  # of the size of pictures that it has now
    width: int
    layout: ImageLayout
    hidden_width: int  # of the vector that stands for a hidden patch
    mean_pooled: bool = False  # an image is pooled by the mean of its fused states; else by the first one
    pixels: PixelFacts = PixelFacts()

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last: what is sharded, recomputed and compiled one by one."""
        raise TypeError(f"{type(self).__name__} does not define layers")

    def draw_positions(self) -> None:
        """Draw learned positions in a way of their own, after all weights were drawn alike; by default nothing."""

    def resize(self, image_size: int) -> None:
        """Make the encoder one of square pictures of so many pixels; learned positions are interpolated.

        Raises:
            UserError: it cannot take pictures of this size.
        """
        raise TypeError(f"{type(self).__name__} does not define resize")

    def forward(self, pixel_values: Tensor, hidden: PatchMask | None = None) -> Stream:
        """Encode B images (B, 3, H, W), normalised; states (B, prefix + P, D)."""
        raise TypeError(f"{type(self).__name__} does not define forward")


def blackened(pixel_values: Tensor, patches: Tensor, layout: ImageLayout, pixels: PixelFacts) -> Tensor:
    """Return the pixels (B, 3, H, W) with those of hidden patches, (B, P) bool, black."""
    rows, columns = layout.grid(pixel_values)
    side = layout.patch_size
    chosen = patches.view(-1, 1, rows, columns).repeat_interleave(side, 2).repeat_interleave(side, 3)
    return torch.where(chosen, pixel_values.new_tensor(pixels.black)[:, None, None], pixel_values)
