"""What models hand on: encoded streams, fused pairs, and the views that objectives ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Stream(NamedTuple):
    """An encoded text or image."""

    states: Tensor  # (B, N, D)
    mask: Tensor  # (B, N) bool; False where padded

    def repeat(self, times: int) -> Stream:
        """Repeat each row ``times`` times, neighbours together: (B * times, N, D)."""
        return Stream(*(tensor.repeat_interleave(times, dim=0) for tensor in self))

    def padded(self, length: int) -> Stream:
        """Return this stream with padding behind its states, ``length`` of them in all."""
        missing = length - self.mask.shape[1]
        if not missing:
            return self
        return Stream(nn.functional.pad(self.states, (0, 0, 0, missing)), nn.functional.pad(self.mask, (0, missing)))

    def append(self, other: Stream) -> Stream:
        """Return this stream with the states of another one of B rows behind its own."""
        return Stream(torch.cat([self.states, other.states], dim=1), torch.cat([self.mask, other.mask], dim=1))

    def select(self, rows: Tensor) -> Stream:
        """Return the rows numbered by ``rows`` (K,) int64, in that order."""
        return Stream(self.states[rows], self.mask[rows])

    def replace(self, rows: Tensor, others: Stream) -> Stream:
        """Return this stream with the rows numbered by ``rows`` (K,) int64 replaced by K others."""
        pairs = zip(self, others, strict=True)
        return Stream(*(tensor.index_copy(0, rows, other) for tensor, other in pairs))


def stack(streams: Iterable[Stream]) -> Stream:
    """Put streams one behind the other, padded to the longest of them."""
    streams = list(streams)
    longest = max(stream.mask.shape[1] for stream in streams)
    padded = [stream.padded(longest) for stream in streams]
    return Stream(*(torch.cat(tensors) for tensors in zip(*padded, strict=True)))


class Fused(NamedTuple):
    """Text and image after fusion; states that nobody reads (`Reading`) may be zeros."""

    text: Tensor  # (B, T, D)
    image: Tensor  # (B, N, D): class token if there is one, patches, then region tokens (see `ImageLayout`)
    pooled: Tensor  # (B, pooled width of the backbone)


NONE, FIRST, ALL = slice(0, 0), slice(0, 1), slice(None)


class Reading(NamedTuple):
    """Which states are read after the last layer. It computes these alone, though they read all others."""

    text: slice = ALL
    image: slice = ALL

    def join(self, other: Reading) -> Reading:
        """Return what either reads, or more."""
        return Reading(*(_join(*pair) for pair in zip(self, other, strict=True)))

    @property
    def pools(self) -> bool:
        """Say whether it may read the pooled pair, which is made of the first states."""
        return NONE not in self and all(part.start in (None, 0) for part in self)


POOLED = Reading(FIRST, FIRST)


class Part(NamedTuple):
    """Neighbouring rows of a fusion of which the same is read."""

    rows: int
    reading: Reading


def place(found: Tensor, places: slice, length: int) -> Tensor:
    """Put states (B, M, D) where they were taken: (B, length, D), zeros elsewhere."""
    start, stop, _ = places.indices(length)
    return found if stop - start == length else nn.functional.pad(found, (0, 0, start, length - stop))


def _join(one: slice, other: slice) -> slice:
    if NONE in (one, other):
        return one if other == NONE else other
    return one if one == other else ALL


class ImageLayout(NamedTuple):
    """Where the patches lie in an image stream."""

    prefix: int  # states before the first patch, such as a class token
    patch_size: int  # pixels

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Return height and width in patches of images (B, 3, H, W).

        Raises:
            ValueError: the patch size does not divide the image.
        """
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"an image of {height} x {width} pixels is not a multiple of patch size {self.patch_size}")
        return height // self.patch_size, width // self.patch_size

    def patches(self, states: Tensor, pixel_values: Tensor) -> Tensor:
        """Return the states (B, P, D) of the patches among those of an image stream (B, N, D)."""
        rows, columns = self.grid(pixel_values)
        return states[:, self.prefix : self.prefix + rows * columns]

    def regions(self, states: Tensor, pixel_values: Tensor) -> Tensor:
        """Return the states (B, R, D) of the region tokens, which follow the patches."""
        rows, columns = self.grid(pixel_values)
        return states[:, self.prefix + rows * columns :]


class TextView(Enum):
    """Which form of the text an objective reads."""

    CLEAN = "clean"
    MASKED = "masked"


class ImageView(Enum):
    """Which form of the image an objective looks at."""

    CLEAN = "clean"
    MASKED = "masked"  # the patches of drawn boxes are hidden, and the mean of their states is appended for each box
    PATCHES = "patches"  # patches drawn one by one are hidden


class Pairing(Enum):
    """Which text lies beside which image."""

    TRUE = "true"
    HARD = "hard"  # 3 B pairs: the true ones, images with a hard text each, texts with a hard image each
    HALF_SHIFTED = "half shifted"  # half of the images get the next text of another image, or texts a drawn image


@dataclass(frozen=True)
class FusedView:
    """One fusion pass over the micro-batch; objectives that declare equal views share it."""

    text: TextView = TextView.CLEAN
    image: ImageView = ImageView.CLEAN
    pairing: Pairing = Pairing.TRUE
