"""Turning upright: pictures, pixels and boxes agree with each other and with Pillow, in all eight orientations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datamodules.orientation import exif_orientation, turn_box, turn_picture
from datamodules.transforms import turn_pixels

STORED = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_pixels_and_boxes_are_turned_alike(orientation: int) -> None:
    stored = Image.fromarray(STORED)
    stored.getexif()[0x0112] = orientation
    assert exif_orientation(stored.getexif().tobytes()) == orientation
    wanted = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(np.asarray(turn_picture(stored, orientation)), wanted)
    if orientation > 1:
        turned = turn_pixels(torch.from_numpy(STORED).permute(2, 0, 1), orientation).permute(1, 2, 0)
        assert turned.is_contiguous()
        assert np.array_equal(turned.numpy(), wanted)
    # the one pixel in column 1, row 4 of 4 x 6
    x0, y0, x1, y1 = turn_box((1 / 4, 4 / 6, 2 / 4, 5 / 6), orientation)
    height, width = wanted.shape[:2]
    part = wanted[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
    assert part.tolist() == [[STORED[4, 1].tolist()]]


@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0"]))
def test_any_bytes_have_an_orientation(junk: bytes, head: bytes) -> None:
    assert 1 <= exif_orientation(b"Exif\0\0" + head + junk) <= 8
