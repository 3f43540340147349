"""Pictures in and out: opening whatever holds one, as 8 bits a channel, and drawing a heat map over it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from datamodules.pictures import (
    DECODING_ERRORS,
    FORMATS,
    MOST_PIXELS,
    OPENED,
    check_pixels,
    check_whole,
    eight_bits,
    load_upright,
    open_raster,
    read_file,
)
from datamodules.transforms import View
from vle_lightning.errors import UserError

Picture = Image.Image | str | PathLike[str] | bytes | NDArray[np.generic] | torch.Tensor
Heat = NDArray[np.floating[Any]]
CHANNELS = (1, 3, 4)
FLOOR = 0.4  # share of the heat's range that stays transparent, as the published pipeline draws it
TINY = 1e-12
OPACITY = 0.75  # of the hottest patch


def open_picture(source: object, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Open a picture from a PIL image, a path, the bytes of a file, an open file, or an array.

    Grey of 16 bits is scaled to 8 as in training: the higher byte is kept.

    Args:
        source: arrays and tensors are (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, uint8, or floats
            in [0, 1].
        most_pixels: of a file or its bytes; a larger picture is refused before it is decoded.

    Raises:
        UserError: it is none of these, there is no such file, it is damaged or too large, or its grey has no known
            white.
    """
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _loaded(source, "the picture")
    if isinstance(source, bytes | bytearray):
        return _opened(bytes(source), f"the picture of {len(source):,} bytes", most_pixels)
    if isinstance(source, str | PathLike):
        return _opened(_file_content(Path(source)), f"the picture {source}", most_pixels)
    if hasattr(source, "read"):
        return _opened(_content(source), "the picture in an open file", most_pixels)
    raise UserError(f"a {type(source).__name__} is not a picture; give a PIL image, a path, bytes, a file or an array")


def _file_content(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise UserError(f"the picture {path} was not found; name a file on this machine") from error
    except (OSError, ValueError) as error:
        raise UserError(f"the picture {path} cannot be read: {error}") from error


def _content(file: Any) -> bytes:  # noqa: ANN401 (any object with read)
    """Read a file from its start, where it has one to go back to: several items may share it."""
    try:
        if file.seekable():
            file.seek(0)
        content = file.read()
    except (AttributeError, TypeError, *DECODING_ERRORS) as error:
        raise UserError(f"the picture in an open file cannot be read: {error}") from error
    if not isinstance(content, bytes | bytearray):
        raise UserError(f"the picture's file gives a {type(content).__name__}, not bytes; open it with mode 'rb'")
    return bytes(content)


def _opened(data: bytes, told: str, most_pixels: int) -> Image.Image:
    try:
        with open_raster(data, most_pixels) as picture:
            check_whole(data, picture.format)
            return load_upright(picture)
    except UnidentifiedImageError as error:
        raise UserError(f"{told} cannot be read: it is none of {', '.join(FORMATS)}") from error
    except DECODING_ERRORS as error:
        raise UserError(f"{told} cannot be read: {error}") from error


def _loaded(picture: Image.Image, told: str) -> Image.Image:
    """Decode a picture that was opened elsewhere; one that was worked on since has no format, and stands upright."""
    if picture.format is not None and picture.format not in OPENED:  # decoding one of EPS runs a program
        raise UserError(f"{told} is {picture.format}, none of {', '.join(FORMATS)}; convert it to RGB first")
    try:
        check_pixels(picture.size)
        if picture.format is None:
            picture.load()
            return eight_bits(picture)
        return load_upright(picture)
    except DECODING_ERRORS as error:
        raise UserError(f"{told} cannot be read: {error}") from error


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    told = f"an array of shape {array.shape} and type {array.dtype}"
    if array.ndim == 3 and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if 0 in array.shape or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in CHANNELS):
        raise UserError(f"{told} is not a picture; give (H, W), (H, W, 3), (H, W, 4) or (3, H, W)")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # False of NaN as well
            raise UserError(f"{told} holds values outside [0, 1]; give uint8, or floats in [0, 1]")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"{told} is not a picture; give uint8, or floats in [0, 1]")
    return Image.fromarray(array)


def stretch(heat: Heat) -> Heat:
    """Stretch heat of any range to [0, 1]; what lies in the lower part of its range becomes 0, even heat all."""
    low, high = float(heat.min()), float(heat.max())
    floor = low + FLOOR * (high - low)
    return ((heat - floor) / max(high - floor, TINY)).clip(0, 1)


def draw_heat(picture: Image.Image, heat: Heat, view: View, zoom: int = 1, opacity: float = OPACITY) -> Image.Image:
    """Lay a heat map over a picture, on the part of it that the model saw; the hotter, the less transparent.

    Args:
        picture: W x H pixels.
        heat: (rows, columns) of the patches, in [0, 1].
        view: the part that the model saw, of the picture at any scale.
        zoom: the drawing is so many times as wide and high as the picture.
        opacity: of heat 1, in [0, 1].

    Returns:
        An RGB picture.
    """
    shown = picture.convert("RGB").resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    across, down = shown.width / view.width, shown.height / view.height
    left, top = max(round(view.x0 * across), 0), max(round(view.y0 * down), 0)
    right, bottom = min(round(view.x1 * across), shown.width), min(round(view.y1 * down), shown.height)
    box = (max(right - left, 1), max(bottom - top, 1))
    smooth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(box, Image.Resampling.BICUBIC)).clip(0, 1)
    colours = matplotlib.colormaps["inferno"](0.25 + 0.75 * smooth, bytes=True)[..., :3]
    alpha = Image.fromarray((smooth * opacity * 255).round().astype(np.uint8))
    shown.paste(Image.fromarray(np.ascontiguousarray(colours)), (left, top), alpha)
    return shown
