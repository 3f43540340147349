from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.transforms import View, decode
from vle_lightning.errors import UserError
from vle_lightning.inference.pictures import draw_heat, open_picture, stretch

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
HEAT = np.array([[0.0, 1.0], [0.2, 0.4]], dtype=np.float32)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "form", ["pil", "bytes", "path", "text", "stream", "file", "array", "tensor", "channels first", "floats"]
)
def test_every_form_of_a_picture_holds_the_same_pixels(form: str, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png())
    forms: dict[str, object] = {
        "pil": Image.fromarray(PIXELS),
        "bytes": png(),
        "path": file,
        "text": str(file),
        "stream": io.BytesIO(png()),
        "file": file.open("rb"),
        "array": PIXELS,
        "tensor": torch.from_numpy(PIXELS),
        "channels first": PIXELS.transpose(2, 0, 1),
        "floats": PIXELS / 255,
    }
    assert np.array_equal(np.asarray(open_picture(forms[form])), PIXELS)


def test_gray_arrays_are_gray_pictures() -> None:
    assert open_picture(PIXELS[..., 0]).mode == "L"
    assert open_picture(PIXELS[..., :1]).mode == "L"


def test_a_stream_can_be_read_again() -> None:
    stream = io.BytesIO(png())
    stream.read()
    for _ in range(2):
        assert np.array_equal(np.asarray(open_picture(stream)), PIXELS)


@pytest.mark.parametrize("form", ["png", "pgm", "tiff", "pil"])
def test_grey_of_16_bits_is_scaled_to_8_as_in_training(form: str) -> None:
    grey = np.array([[0, 255, 256, 511], [32768, 40000, 65279, 65535]], dtype=np.uint16)
    buffer = io.BytesIO(b"P5 4 2 65535\n" + grey.astype(">u2").tobytes())
    if form != "pgm":
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "png" if form == "pil" else form)
    picture = open_picture(Image.fromarray(grey) if form == "pil" else buffer)
    assert picture.mode == "L"
    assert np.asarray(picture).tolist() == [[0, 0, 1, 1], [128, 156, 254, 255]]
    if form == "png":
        assert np.array_equal(decode(buffer.getvalue())[0].numpy(), np.asarray(picture))


def test_grey_of_32_bits_is_not_cut_off_in_silence() -> None:
    for dtype in (np.int32, np.float32):
        low = Image.fromarray(np.array([[0, 255]], dtype=dtype))
        assert np.asarray(open_picture(low).convert("L")).tolist() == [[0, 255]]
        with pytest.raises(UserError, match="grey of 32 bits that is not within 0 to 255"):
            open_picture(Image.fromarray(np.array([[0, 300]], dtype=dtype)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (io.StringIO("a"), "gives a str, not bytes; open it with mode 'rb'"),
        (io.BytesIO(b"no picture"), "the picture in an open file cannot be read"),
        ("nowhere.png", "the picture nowhere.png was not found"),
        (b"", "the picture of 0 bytes cannot be read"),
        (png()[:60], "the picture of 60 bytes cannot be read"),
        (3, "a int is not a picture"),
        (None, "a NoneType is not a picture"),
        (np.zeros((2, 3, 5)), r"shape \(2, 3, 5\)"),
        (np.zeros((0, 3)), "is not a picture"),
        (PIXELS.astype(np.int64), "type int64 is not a picture"),
        (PIXELS * 1.0, r"outside \[0, 1\]"),
        (np.full((2, 2), np.nan), r"outside \[0, 1\]"),
    ],
)
def test_what_is_no_picture_is_told(source: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_picture(source)


def test_heat_is_stretched_between_its_floor_and_its_top() -> None:
    np.testing.assert_allclose(stretch(2 + 4 * HEAT), [[0, 1], [0, 0]], atol=1e-6)  # the floor is 2 + 0.4 * 4
    np.testing.assert_allclose(stretch(np.array([[0.0, 0.7, 1.0]])), [[0, 0.5, 1]])
    assert not stretch(np.ones((2, 2))).any()


def test_the_hotter_the_less_of_the_picture_is_seen() -> None:
    drawn = np.asarray(draw_heat(Image.new("RGB", (40, 40), "blue"), HEAT, View(40, 40, 0, 0, 40, 40)))
    assert drawn[5, 2].tolist() == [0, 0, 255]
    assert drawn[35, 35, 2] < 220
    assert drawn[5, 35, 0] > 150  # the hottest patch


def test_heat_lies_on_the_part_that_the_model_saw() -> None:
    picture = Image.new("RGB", (80, 40), "blue")
    view = View(40, 20, 10, 0, 30, 20)  # the middle, at half the scale
    drawn = np.asarray(draw_heat(picture, HEAT, view, zoom=2))
    assert drawn.shape == (80, 160, 3)
    assert (drawn[:, :40] == [0, 0, 255]).all()
    assert (drawn[:, 120:] == [0, 0, 255]).all()
    assert drawn[10, 110, 0] > 150
