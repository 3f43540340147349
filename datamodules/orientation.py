"""How a stored picture is turned to stand upright: EXIF's orientation, read alike for every format, and its effect.

Pillow and torchvision read it differently (Pillow from XMP too, torchvision of JPEGs and PNGs only), so that a set
would be turned at preparation and not in the stream. Here it is one number, 1 to 8, of the EXIF block alone.
"""

from __future__ import annotations

import struct

from PIL import Image

Corners = tuple[float, float, float, float]

TAG = 0x0112
UPRIGHT = 1
SIDEWAYS = 5  # from here on width and height are exchanged
SHORT = 3  # EXIF's number of the type
ORDERS = {b"II": "<", b"MM": ">"}
EXIF_HEAD = b"Exif\0\0"
# Which axes of the rows and columns are reversed, after rows and columns were exchanged where it is sideways.
FLIPS: dict[int, tuple[int, ...]] = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif_orientation(exif: bytes) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 where it says none, one that is not known, or is damaged."""
    tiff = exif.removeprefix(EXIF_HEAD)
    order = ORDERS.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, first + 2 + 12 * entry)
            if tag == TAG:
                return value if kind == SHORT and value in FLIPS else UPRIGHT
    except struct.error:  # it ends amid its own list
        pass
    return UPRIGHT


def turn_picture(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored picture upright."""
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def turn_box(box: Corners, orientation: int) -> Corners:
    """Carry a box, xyxy in [0, 1] of the stored picture, over to the upright one."""
    x0, y0, x1, y1 = box
    if orientation >= SIDEWAYS:
        x0, y0, x1, y1 = y0, x0, y1, x1
    flips = FLIPS.get(orientation, ())
    if 1 in flips:
        x0, x1 = 1 - x1, 1 - x0
    if 0 in flips:
        y0, y1 = 1 - y1, 1 - y0
    return x0, y0, x1, y1
