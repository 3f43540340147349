"""Opening pictures of strangers safely: known raster formats, bounded sizes, upright, 8 bits a channel."""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

# Raster formats that are decoded by a library; others, EPS among them, would start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
JPEGS = ("JPEG", "MPO")  # Pillow's names; the second holds several
MOST_PIXELS = 89_478_485  # of one picture, Pillow's own bound: 256 MiB in RGB
MOST_BYTES = 256 * 2**20  # of one file
SIXTEEN_BITS = ("PNG", "PPM")  # formats whose mode "I" means that, and not 32 bits
ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = 1
# What Pillow raises for broken files; each decoder has its own way.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
END_OF_JPEG = b"\xff\xd9"


def read_file(path: Path) -> bytes:
    """Read a picture's file.

    Raises:
        OSError: there is no such file.
        ValueError: it is no regular file (a pipe would be waited for), or too large.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("no regular file")
        check_bytes(about.st_size)
        return file.read()


def check_bytes(size: int) -> None:
    """Raise ValueError for a picture's file of too many bytes."""
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MOST_BYTES:,}")


def open_raster(source: bytes | bytearray | Path | IO[bytes]) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
        UnidentifiedImageError: it is of none of `FORMATS`.
        ValueError: it has too many pixels.
    """
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray) else source
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # of twice as many
        raise ValueError(f"more than {MOST_PIXELS:,} pixels: {error}") from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        image.close()
        raise ValueError(f"more than {MOST_PIXELS:,} pixels: {width} x {height}")
    return image


def is_upright(image: Image.Image) -> bool:
    """Say whether a picture is stored as it is to be seen (EXIF's orientation)."""
    return bool(image.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT)


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; the orientation is dropped."""
    return ImageOps.exif_transpose(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the upright picture, without decoding it."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION, UPRIGHT) >= 5 else (width, height)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8, the high byte; Pillow's own conversion makes everything above 255 white.

    Raises:
        ValueError: it is grey of 32 bits whose white is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        pixels = np.asarray(image)
        if not (pixels.min() >= 0 and pixels.max() <= 255):  # False of NaN as well
            raise ValueError("grey of 32 bits that is not within 0 to 255; scale it to 8 bits")
        return Image.fromarray(pixels.astype(np.uint8))
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any opened picture to RGB of 8 bits; raises as `eight_bits` does."""
    return eight_bits(image).convert("RGB")


def check_whole(data: bytes, kind: str | None) -> None:
    """Raise ValueError for a JPEG that was cut short: decoders fill the rest with grey and say nothing."""
    if kind in JPEGS and data.rfind(END_OF_JPEG, max(0, len(data) // 2)) < 0:
        raise ValueError("a JPEG that was cut short: its end is missing")
