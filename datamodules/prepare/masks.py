"""Masks of images, a class number a pixel: checked, turned and scaled with their image, never interpolated."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from datamodules.orientation import UPRIGHT, turn_picture
from datamodules.pictures import DECODING_ERRORS, open_raster, stored_orientation, upright_size
from datamodules.prepare.images import EncodedImage
from datamodules.prepare.raw import MaskFile
from datamodules.shards import SampleError

MODES = ("L", "P")  # of one channel of 8 bits; the indexes of a palette are the numbers


def prepare_mask(data: bytes, mask: MaskFile, stored: bytes, image: bytes) -> EncodedImage:
    """Check a mask, and turn and scale it as its image was; one that needs neither keeps its bytes.

    Args:
        data: The mask's file.
        mask: Its name, and how many classes there are.
        stored: The image's file, of whose size and orientation the mask is.
        image: The image as it goes into the shard.

    Raises:
        SampleError: "unreadable mask", "mask of another size" or "unknown class in the mask".
    """
    with open_raster(stored) as before, open_raster(image) as after:
        size, orientation, wanted = upright_size(before), stored_orientation(before), after.size
    try:
        with open_raster(data) as file:
            if file.format != "PNG" or file.mode not in MODES:
                raise SampleError("unreadable mask", f"{mask.name}: {file.format} of mode {file.mode}, not a grey PNG")
            file.load()
            numbers = turn_picture(Image.fromarray(np.asarray(file)), orientation)
    except DECODING_ERRORS as error:
        raise SampleError("unreadable mask", f"{mask.name}: {error}") from error
    if numbers.size != size:
        told = f"{numbers.width} x {numbers.height} pixels, its image {size[0]} x {size[1]}"
        raise SampleError("mask of another size", f"{mask.name}: {told}")
    most = int(np.asarray(numbers).max())
    if most > mask.classes:
        raise SampleError("unknown class in the mask", f"{mask.name}: number {most} of {mask.classes} classes")
    if orientation == UPRIGHT and numbers.size == wanted:
        return EncodedImage(data, "png")
    out = io.BytesIO()
    numbers.resize(wanted, Image.Resampling.NEAREST).save(out, "PNG")
    return EncodedImage(out.getvalue(), "png")
