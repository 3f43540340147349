"""Photometric RandAugment (arXiv 1909.13719) that keeps colour words true.

Pre-training reads "a red circle", so that a colour must keep its name. Left out are therefore solarise, posterise,
equalise, inversion and hue; geometry as well, since boxes would have to follow. What stays is built so that no
channel is clipped where a grey shift would do: clipping alone turns orange into yellow. The operations of a picture
are drawn without repetition, so that no effect doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

STRONGEST = 10  # RandAugment's scale of magnitudes (section 3.2)
WHITE = 255
# What magnitude 10 does: one operation leaves white at 178 of 255 at least, and a colour 60 % of its saturation.
BRIGHTNESS, CONTRAST, SHARPNESS = 0.3, 0.3, 0.9
PALER, RICHER = 0.4, 0.2
STRETCH = 40  # levels by which auto-contrast moves black and white at most
BLUR_SIGMA, BLUR_WIDTH = 1.0, 5  # pixels of the view

Operation: TypeAlias = Callable[[Tensor, float], Tensor]  # (3, H, W) uint8 and an amount in [-1, 1]


def toward_black(image: Tensor, factor: float) -> Tensor:
    """Multiply all levels by ``factor``."""
    darker: Tensor = F.adjust_brightness_image(image, factor)
    return darker


def toward_white(image: Tensor, factor: float) -> Tensor:
    """Multiply the distance of all levels from white by ``factor``.

    Brighter in this way, hues stay; a factor on the levels themselves would clip.
    """
    inverted: Tensor = F.invert_image(toward_black(F.invert_image(image), factor))
    return inverted


def brightness(image: Tensor, amount: float) -> Tensor:
    """Move all levels towards white, or below 0 towards black."""
    move = toward_white if amount > 0 else toward_black
    return move(image, 1 - BRIGHTNESS * abs(amount))


def contrast(image: Tensor, amount: float) -> Tensor:
    """Move all levels towards the mean grey; more contrast is `auto_contrast`'s, which does not clip."""
    flatter: Tensor = F.adjust_contrast_image(image, 1 - CONTRAST * abs(amount))
    return flatter


def auto_contrast(image: Tensor, amount: float) -> Tensor:
    """Stretch the levels to black and white, all channels alike; each end moves by `STRETCH` levels at most.

    torchvision's stretches each channel by itself, which tints.
    """
    most = round(STRETCH * abs(amount))
    low = min(int(image.min()), most)
    image = toward_white(image, WHITE / (WHITE - low))
    high = max(int(image.max()), WHITE - most)
    return toward_black(image, WHITE / high)


def saturation(image: Tensor, amount: float) -> Tensor:
    """Make the colours a little richer, or below 0 paler, never grey."""
    factor = 1 + amount * (RICHER if amount > 0 else PALER)
    coloured: Tensor = F.adjust_saturation_image(image, factor)
    return coloured


def sharpness(image: Tensor, amount: float) -> Tensor:
    """Sharpen, or below 0 smooth."""
    sharper: Tensor = F.adjust_sharpness_image(image, 1 + SHARPNESS * amount)
    return sharper


def blur(image: Tensor, amount: float) -> Tensor:
    """Blur with a Gaussian; a picture smaller than its kernel has no detail to lose."""
    if not amount or min(image.shape[1:]) < BLUR_WIDTH:
        return image
    blurred: Tensor = F.gaussian_blur_image(image, [BLUR_WIDTH, BLUR_WIDTH], [BLUR_SIGMA * abs(amount)] * 2)
    return blurred


OPERATIONS: tuple[Operation, ...] = (brightness, contrast, auto_contrast, saturation, sharpness, blur)


@dataclass(frozen=True)
class Photometric:
    """What is done to the levels of a picture: operations in order, each with its amount; none by default."""

    steps: tuple[tuple[Operation, float], ...] = ()

    def apply(self, image: Tensor) -> Tensor:
        """Return a changed picture (3, H, W) uint8; the given one stays as it is."""
        if self.steps:
            image = image.contiguous()  # channel by channel, torchvision's operations take two thirds of the time
        for operation, amount in self.steps:
            image = operation(image, amount)
        return image


def draw_photometric(rng: np.random.Generator, ops: int, magnitude: int) -> Photometric:
    """Draw ``ops`` different operations, each of that magnitude in a random direction.

    Always twelve numbers are drawn, or none at all where ``ops`` is 0: the numbers after them do not depend on
    what came out.
    """
    if not ops:
        return Photometric()
    order, direction = rng.random((2, len(OPERATIONS)))
    amount = magnitude / STRONGEST
    chosen = np.argsort(order)[:ops].tolist()
    return Photometric(tuple((OPERATIONS[i], amount if direction[i] < 0.5 else -amount) for i in chosen))


def check_options(ops: int, magnitude: int) -> None:
    """Check the options of the augmentation.

    Raises:
        ValueError: one is out of range; names the key.
    """
    if not 0 <= ops <= len(OPERATIONS):
        names = ", ".join(operation.__name__ for operation in OPERATIONS)
        raise ValueError(f"data.augment_ops is {ops}; give 0 (no augmentation) to {len(OPERATIONS)} (all of {names})")
    if not 0 <= magnitude <= STRONGEST:
        raise ValueError(f"data.augment_magnitude is {magnitude}; give 0 (no change) to {STRONGEST} (the strongest)")
