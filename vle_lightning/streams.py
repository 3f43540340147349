"""What models hand on: encoded streams, fused pairs, and the views that objectives ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor


class Stream(NamedTuple):
    """An encoded text or image."""

    states: Tensor  # (B, N, D)
    mask: Tensor  # (B, N) bool; False where padded

    def repeat(self, times: int) -> Stream:
        """Repeat each row ``times`` times, neighbours together: (B * times, N, D)."""
        return Stream(*(tensor.repeat_interleave(times, dim=0) for tensor in self))

    def append(self, other: Stream) -> Stream:
        """Return this stream with the states of another one of B rows behind its own."""
        return Stream(torch.cat([self.states, other.states], dim=1), torch.cat([self.mask, other.mask], dim=1))

    def select(self, rows: Tensor) -> Stream:
        """Return the rows numbered by ``rows`` (K,) int64, in that order."""
        return Stream(self.states[rows], self.mask[rows])


class Fused(NamedTuple):
    """Text and image after fusion."""

    text: Tensor  # (B, T, D)
    image: Tensor  # (B, 1 + P + R, D): CLS, patches, then region tokens
    pooled: Tensor  # (B, 2D): pooled text CLS, then pooled image CLS


class TextView(Enum):
    """Which form of the text an objective reads."""

    CLEAN = "clean"
    MASKED = "masked"


class ImageView(Enum):
    """Which form of the image an objective looks at."""

    CLEAN = "clean"
    MASKED = "masked"  # the patches of drawn boxes are hidden, and the mean of their states is appended for each box


class Pairing(Enum):
    """Which text lies beside which image."""

    TRUE = "true"
    HALF_SHIFTED = "half shifted"  # half of the images get the next text of another image


@dataclass(frozen=True)
class FusedView:
    """One fusion pass over the micro-batch; objectives that declare equal views share it."""

    text: TextView = TextView.CLEAN
    image: ImageView = ImageView.CLEAN
    pairing: Pairing = Pairing.TRUE
