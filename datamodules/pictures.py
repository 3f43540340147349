"""Opening pictures of strangers safely: known raster formats, bounded sizes, upright, 8 bits a channel."""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, TiffImagePlugin

from datamodules.orientation import FLIPS, SIDEWAYS, TAG, UPRIGHT, exif_orientation, turn_picture

# Raster formats that are decoded by a library; others, EPS among them, would start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
JPEGS = ("JPEG", "MPO")  # MPO: several in one file, of which the first is shown
OPENED = (*FORMATS, *JPEGS)  # what Pillow calls them then
MOST_PIXELS = 89_478_485  # of one picture, Pillow's own bound: 256 MiB in RGB
MOST_BYTES = 256 * 2**20  # of one file
SIXTEEN_BITS = ("PNG", "PPM")  # formats whose mode "I" means that, and not 32 bits
# What Pillow raises for broken files; each decoder has its own way.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
BEGIN_OF_SCAN, END_OF_JPEG = 0xDA, b"\xff\xd9"
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))  # markers of a JPEG that nothing belongs to


class DamagedError(ValueError):
    """A picture that decodes, but not to what was stored."""


def read_file(path: Path) -> bytes:
    """Read a picture's file.

    Raises:
        OSError: there is no such file.
        ValueError: it is no regular file (a pipe would be waited for, a device may act), or too large.
    """
    check_regular(os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        about = os.fstat(handle)  # it may be another one by now
        check_regular(about.st_mode)
        check_bytes(about.st_size)
        data = file.read(MOST_BYTES + 1)  # it may grow
    check_bytes(len(data))
    return data


def check_regular(mode: int) -> None:
    """Raise ValueError for what is no regular file."""
    if not stat.S_ISREG(mode):
        raise ValueError("no regular file")


def check_bytes(size: int) -> None:
    """Raise ValueError for a picture's file of too many bytes."""
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MOST_BYTES:,}")


def check_pixels(size: tuple[int, int], most: int = MOST_PIXELS) -> None:
    """Raise ValueError for a picture of too many pixels, width and height."""
    width, height = size
    if width * height > most:
        raise ValueError(f"more than {most:,} pixels: {width} x {height}")


def open_raster(source: bytes | bytearray | Path | IO[bytes], most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
        UnidentifiedImageError: it is of none of `FORMATS`.
        ValueError: it has too many bytes or pixels.
    """
    if isinstance(source, bytes | bytearray):
        check_bytes(len(source))
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray) else source
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's, of the same number
        raise ValueError(f"more than {MOST_PIXELS:,} pixels: {error}") from error
    try:
        check_pixels(image.size, most_pixels)
    except ValueError:
        image.close()
        raise
    return image


def orientation_of(image: Image.Image) -> int:
    """Return how to turn an opened picture, see `orientation`; Pillow turns TIFFs itself when they are decoded."""
    exif = image.info.get("exif")
    return exif_orientation(exif) if isinstance(exif, bytes) and image.format != "TIFF" else UPRIGHT


def stored_orientation(image: Image.Image) -> int:
    """Return how an opened picture is stored, TIFFs too."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(TAG, UPRIGHT)
        return value if value in FLIPS else UPRIGHT
    return orientation_of(image)


def is_upright(image: Image.Image) -> bool:
    """Say whether a picture is stored as it is to be seen."""
    return stored_orientation(image) == UPRIGHT


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the upright picture, without decoding it."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer versions of Pillow tell the upright size of these
        width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
    return (height, width) if stored_orientation(image) >= SIDEWAYS else (width, height)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8, the high byte; Pillow's own conversion makes everything above 255 white.

    Floats within [0, 1] are taken for shares of white, others as they are.

    Raises:
        ValueError: it is grey of 32 bits whose white is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        pixels = np.asarray(image)
        if not (pixels.min() >= 0 and pixels.max() <= 255):  # False of NaN as well
            raise ValueError("grey of 32 bits that is not within 0 to 255; scale it to 8 bits")
        if image.mode == "F" and pixels.max() <= 1:
            pixels = (pixels * 255).round()
        return Image.fromarray(pixels.astype(np.uint8))
    return image


def load_upright(image: Image.Image) -> Image.Image:
    """Decode an opened picture: upright, 8 bits a channel, of the mode that it has; raises as decoding does."""
    orientation = orientation_of(image)
    image.load()
    return turn_picture(eight_bits(image), orientation)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any opened picture to RGB of 8 bits as it is stored; raises as `eight_bits` does."""
    return eight_bits(image).convert("RGB")


def check_whole(data: bytes, kind: str | None) -> None:
    """Raise ValueError for a JPEG that was cut short, whatever the decoder is told to put up with.

    Its end is looked for behind its head, where a thumbnail may have one of its own, and anywhere: telephones
    append films.
    """
    if kind in JPEGS and data.rfind(END_OF_JPEG, scan_start(data)) < 0:
        raise ValueError("a JPEG that was cut short: its end is missing")


def scan_start(data: bytes) -> int:
    """Return where a JPEG's first scan begins; in a head that is not well-formed, where it ceases to be."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != BEGIN_OF_SCAN:
        marker = data[place + 1]
        if marker == 0xFF:  # filled up
            place += 1
        elif marker in WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return min(place, len(data))
