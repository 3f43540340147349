"""Image views: decode, crop, flip, resize and normalise, and what that does to boxes (see docs/data_speed.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_image

from datamodules.augment import Photometric, check_options, draw_photometric
from datamodules.listening import LISTENER
from datamodules.orientation import FLIPS, SIDEWAYS, UPRIGHT
from datamodules.pictures import (
    DECODING_ERRORS,
    JPEGS,
    DamagedError,
    check_whole,
    open_raster,
    orientation_of,
    to_rgb,
)
from vle_lightning.batch import Colours

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's (arXiv 2103.00020), in the released preprocessing
STD = (0.26862954, 0.26130258, 0.27577711)
ASPECT = 4 / 3  # a crop is at most this much wider or taller than its picture (as in Inception's random crops)
KEPT_AREA = 0.5  # a box with less of its area left in the crop is no longer the object that its name says

Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """The part of a picture that is seen, xyxy in pixels, whether it is mirrored, and how its levels are changed."""

    width: int
    height: int  # of the whole picture
    x0: int
    y0: int
    x1: int
    y1: int
    flipped: bool = False
    photometric: Photometric = Photometric()
    folds: int = 1  # rows that the picture was folded into, which is the whole then

    @property
    def is_whole(self) -> bool:
        """Say whether nothing is cut off."""
        return (self.x0, self.y0, self.x1, self.y1) == (0, 0, self.width, self.height)

    def move(self, boxes: NDArray[np.floating[Any]]) -> tuple[Boxes, NDArray[np.bool_]]:
        """Carry boxes over to the view.

        Args:
            boxes: (R, 4) xyxy, normalised to the whole picture.

        Returns:
            Boxes (R, 4) normalised to the view and clipped to it; which (R,) kept half of their area. A box that a fold
            cuts is where its middle is.
        """
        folded = boxes.astype(np.float64)
        return self._clip(fold_boxes(folded, self.folds) if self.folds > 1 else folded)

    def parts(self, boxes: NDArray[np.floating[Any]]) -> tuple[Boxes, NDArray[np.intp]]:
        """Carry boxes over to the view, where a fold may have cut one in several parts.

        Args:
            boxes: (R, 4) xyxy, normalised to the whole picture.

        Returns:
            Parts (Q, 4) normalised to the view and clipped to it, those that kept half of their area; which box (Q,)
            each is of.
        """
        folded, of = boxes.astype(np.float64), np.arange(len(boxes))
        if self.folds > 1:
            folded, of = split_boxes(folded, self.folds)
        inside, kept = self._clip(folded)
        return inside[kept], of[kept]

    def _clip(self, moved: NDArray[np.float64]) -> tuple[Boxes, NDArray[np.bool_]]:
        if not self.is_whole:
            scale = np.tile([self.width, self.height], 2) / np.tile([self.x1 - self.x0, self.y1 - self.y0], 2)
            moved = (moved - np.tile([self.x0 / self.width, self.y0 / self.height], 2)) * scale
        inside = moved.clip(0, 1)
        kept = area(inside) >= KEPT_AREA * area(moved)
        if self.flipped:
            inside[:, [0, 2]] = 1 - inside[:, [2, 0]]
        return inside.astype(np.float32), kept


def fold_boxes(boxes: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Carry boxes (R, 4) over to a folded picture: each to the row of its middle, over whose ends it may hang."""
    row = np.floor(boxes[:, [0, 2]].mean(1) * rows).clip(0, rows - 1)[:, None]
    moved = boxes.copy()
    moved[:, 0::2] = boxes[:, 0::2] * rows - row
    moved[:, 1::2] = (boxes[:, 1::2] + row) / rows
    return moved


def split_boxes(boxes: NDArray[np.float64], rows: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Carry boxes (R, 4) over to a folded picture: parts (Q, 4), one in each row, and which box (Q,) each is of."""
    left, right = ((boxes[:, [side]] * rows - np.arange(rows)).clip(0, 1) for side in (0, 2))
    of, row = np.nonzero(right > left)
    top, bottom = ((boxes[of, side] + row) / rows for side in (1, 3))
    return np.stack([left[of, row], top, right[of, row], bottom], axis=1), of


def area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas (R,) of boxes (R, 4) xyxy."""
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


Framing = Literal["squeeze", "centre", "fold"]


@dataclass(frozen=True)
class ImageTransform:
    """Random crop and flip, then a square of ``image_size`` pixels, then photometric RandAugment.

    ``framing`` says what becomes of a picture that is no square: all of it is squeezed into one, or its central square
    is taken, as CLIP and METER do; or a wide one is cut into parts of equal width, laid below each other, before it is
    squeezed (fold).
    ``crop_scale`` bounds the share of the picture that a crop keeps; (1, 1) keeps all and draws nothing.
    ``augment_ops`` is the number of photometric operations; 0 changes and draws nothing.
    ``pixel_mean`` and ``pixel_std`` are of red, green and blue in [0, 1]: what a batch is normalised by.
    ``as_bytes`` leaves that to the device (datamodules/feeding.py).
    """

    image_size: int
    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    augment_ops: int = 0
    augment_magnitude: int = 5
    framing: Framing = "squeeze"
    pixel_mean: Colours = MEAN
    pixel_std: Colours = STD
    as_bytes: bool = False

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range; names the key.
        """
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"data.crop_scale is {list(self.crop_scale)}; give two shares 0 < low <= high <= 1")
        if self.image_size < 1:
            raise ValueError(f"data.image_size is {self.image_size}; give a number of pixels")
        check_options(self.augment_ops, self.augment_magnitude)
        for name, colours in {"mean": self.pixel_mean, "std": self.pixel_std}.items():
            if len(colours) != 3 or not all(0 <= colour <= 1 for colour in colours) or (name == "std" and 0 in colours):
                raise ValueError(
                    f"data.pixel_{name} is {list(colours)}; give three numbers in [0, 1], of red, green and blue"
                    + (", none of them 0" if name == "std" else "")
                )

    def draw(self, rng: np.random.Generator, width: int, height: int, *, may_flip: bool) -> View:
        """Draw a view of a picture of that many pixels; ``may_flip``: its texts stay true in a mirror."""
        left = top = 0
        folds = rows_of(width, height) if self.framing == "fold" else 1
        width, height = width // folds, height * folds
        columns, rows = width, height
        if self.framing == "centre":
            columns = rows = min(width, height)
            left, top = (width - columns) // 2, (height - rows) // 2
        seen_columns, seen_rows = columns, rows
        if self.crop_scale[0] < 1:
            share, stretch = rng.uniform(*self.crop_scale), rng.uniform(-1, 1)
            aspect = ASPECT**stretch
            columns = max(1, min(columns, round(columns * math.sqrt(share * aspect))))
            rows = max(1, min(rows, round(rows * math.sqrt(share / aspect))))
        free = (seen_columns - columns, seen_rows - rows)
        x0, y0 = (
            first + (int(rng.integers(size + 1)) if size else 0) for first, size in zip((left, top), free, strict=True)
        )
        flipped = self.flip and bool(rng.random() < 0.5) and may_flip
        photometric = draw_photometric(rng, self.augment_ops, self.augment_magnitude)
        return View(width, height, x0, y0, x0 + columns, y0 + rows, flipped, photometric, folds)

    def apply(self, image: Tensor, view: View) -> Tensor:
        """Turn (3, H, W) uint8 into what a view sees of it, (3, S, S); the right size is not resampled."""
        if view.folds > 1:
            image = fold(image, view.folds)
        if not view.is_whole:
            image = cut(image, view)
        if tuple(image.shape[1:]) != (self.image_size, self.image_size):
            image = resize(image, self.image_size)
        if view.flipped:
            image = image.flip(-1)
        return view.photometric.apply(image)

    def normalise(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Make a batch of pictures uint8, float by the transform's mean and deviation; see `normalise`."""
        if self.as_bytes:
            return images if isinstance(images, Tensor) else torch.stack(list(images))
        return normalise(images, self.pixel_mean, self.pixel_std)


def rows_of(width: int, height: int) -> int:
    """Return how many rows a wide picture is folded into to come next to a square: 2 where it is four times as wide."""
    return max(1, round(math.sqrt(width / height)))


def fold(image: Tensor, rows: int) -> Tensor:
    """Cut a picture (3, H, W) into parts of equal width, and lay these below each other: (3, H * rows, W // rows).

    What is squeezed to a square then keeps its form, and no patch sees more of the width than of the height.
    """
    columns = image.shape[2] // rows
    return torch.cat(list(image[:, :, : columns * rows].split(columns, dim=2)), dim=1)


def cut(image: Tensor, view: View) -> Tensor:
    """Cut (3, h, w) out of a picture (3, H, W), pixel by pixel in memory as decoders give it and the resize wants it.

    Whole rows are copied several times faster than the resize would copy a part with gaps.
    """
    rows = image.permute(1, 2, 0).flatten(1)[view.y0 : view.y1, 3 * view.x0 : 3 * view.x1].contiguous()
    return rows.view(len(rows), -1, 3).permute(2, 0, 1)


def resize(image: Tensor, size: int) -> Tensor:
    """Resample (3, H, W) uint8 to (3, size, size), bicubic with antialiasing as Pillow's, off by one level at most.

    What torchvision's resize does, without its dispatch: that is a tenth of the time of so small a picture. The batch
    dimension gets the stride of a whole picture, by which interpolate recognises and keeps the order pixel by pixel.
    """
    pixels = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return interpolate(pixels, (size, size), mode="bicubic", antialias=True)[0]


def decode(data: bytes, turn: bool = False) -> Tensor:
    """Decode a picture of `pictures.FORMATS` to RGB (3, H, W) uint8; of an animation its first picture.

    torchvision decodes JPEG, half as fast again as Pillow. Pillow decodes the others: torchvision's PNG decoder ends
    the whole process where the compressed data are damaged, and its GIF decoder decodes all pictures.

    Args:
        data: The file.
        turn: Turn it upright, as its EXIF orientation says; images that we prepared stand as they are meant to.

    Raises:
        ValueError: the bytes are no readable image, or of one that is too large.
        DamagedError: they decode, but libjpeg says that they are damaged.
    """
    if not data:
        raise ValueError("no bytes")
    damage = ""
    try:
        with open_raster(data) as header:  # 15 microseconds; decoding takes thirty times as long
            check_whole(data, header.format)
            orientation = orientation_of(header) if turn else UPRIGHT
            if header.format in JPEGS:
                buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                image, damage = LISTENER.hear(lambda: decode_image(buffer, ImageReadMode.RGB))
            else:
                image = torch.from_numpy(np.array(to_rgb(header))).permute(2, 0, 1)
    except (RuntimeError, *DECODING_ERRORS) as error:
        told = str(error).split(" <_io")[0].splitlines()  # Pillow names an address in memory
        raise ValueError(told[0] if told else type(error).__name__) from error
    if damage:
        raise DamagedError(damage)
    return image if orientation == UPRIGHT else turn_pixels(image, orientation)


def turn_pixels(image: Tensor, orientation: int) -> Tensor:
    """Turn a stored picture (3, H, W) upright; pixel by pixel in memory, as `cut` wants it."""
    rows = image.permute(1, 2, 0)
    if orientation >= SIDEWAYS:
        rows = rows.transpose(0, 1)
    turned: Tensor = rows.flip(FLIPS[orientation]).contiguous()
    return turned.permute(2, 0, 1)


def scale_and_shift(mean: Colours, std: Colours) -> tuple[list[float], list[float]]:
    """Return what a level in [0, 255] of each colour is multiplied by to normalise it, and what is added then."""
    return [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


def normalise(images: Tensor | Sequence[Tensor], mean: Colours = MEAN, std: Colours = STD) -> Tensor:
    """Make a batch of B pictures (3, H, W) or pairs (2, 3, H, W) uint8, float by mean and deviation (CLIP's).

    Returns:
        (B, 3, H, W) or (B, 2, 3, H, W) float32, contiguous.
    """
    scale, shift = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in scale_and_shift(mean, std))
    # NumPy asks for huge pages and gets its memory back; torch's is faulted in anew for each batch, 4 kB at a time
    batch = torch.from_numpy(np.empty((len(images), *images[0].shape), dtype=np.float32))
    for row, image in zip(batch, images, strict=True):
        row.copy_(image).mul_(scale).add_(shift)  # picture by picture: each pass finds it in the cache
    return batch
