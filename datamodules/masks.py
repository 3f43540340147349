"""Masks, a class number a pixel: decoded, and seen in the same view as their picture."""

from __future__ import annotations

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.pictures import DECODING_ERRORS, open_raster
from datamodules.transforms import View


def decode_mask(data: bytes) -> Tensor:
    """Decode a PNG of one channel to (H, W) uint8; of a palette its indexes are the numbers.

    Raises:
        ValueError: the bytes are no such picture.
    """
    try:
        with open_raster(data) as file:
            if file.format != "PNG" or file.mode not in ("L", "P"):
                raise ValueError(f"a {file.format} of mode {file.mode} is no mask")
            file.load()
            return torch.from_numpy(np.array(file))
    except (UnidentifiedImageError, *DECODING_ERRORS) as error:
        raise ValueError(str(error)) from error


def cut_mask(mask: Tensor, view: View) -> Tensor:
    """Return the part of a mask (H, W) that a view sees, mirrored if it is, at its own size."""
    part = mask[view.y0 : view.y1, view.x0 : view.x1]
    return part.flip(-1) if view.flipped else part.contiguous()


def see_mask(mask: Tensor, view: View, size: int) -> Tensor:
    """Turn a mask (H, W) uint8 into what a view sees of it, (size, size), each pixel that of the nearest one.

    Pixels are squares, as in the bicubic resampling of pictures (`datamodules.transforms.resize`): both stay in place.
    """
    part = cut_mask(mask, view)
    return interpolate(part[None, None], (size, size), mode="nearest-exact")[0, 0]
