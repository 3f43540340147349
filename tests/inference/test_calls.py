"""What a call of a pipeline takes: options of the right type, pictures in any form, a description that can be."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vle_lightning.errors import UserError
from vle_lightning.inference import pipeline

Exported = Callable[[str], Path]
CHANCE = np.random.default_rng(0)
PICTURES = [Image.fromarray(CHANCE.integers(0, 256, (30, 60, 3), dtype=np.uint8))]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vqa", {"top_k": "2"}, "top_k is '2', a str"),
        ("vqa", {"batch_size": 2.0}, "batch_size is 2.0, a float"),
        ("mlm", {"top_k": None}, "top_k is None"),
        ("pbc", {"zoom": 1.5}, "zoom is 1.5, a float"),
        ("pbc", {"zoom": -1}, "zoom is -1; it must be at least 1"),
        ("pbc", {"draw": ["heatmap"]}, r"draw is \['heatmap'\]"),
        ("vcr-q2a", {"compatible": "no"}, "compatible is 'no'; give True or False"),
    ],
)
def test_a_call_option_of_another_type_is_told(
    kind: str, options: dict[str, object], message: str, exported: Exported
) -> None:
    call = pipeline(kind, exported(kind if kind in ("vqa", "vcr-q2a") else "pretrain"))
    with pytest.raises(UserError, match=message):
        call(image=PICTURES[0], **options)


def test_a_picture_in_memory_is_one_picture(exported: Exported) -> None:
    match = pipeline("itm", exported("pretrain"))
    stream = io.BytesIO()
    PICTURES[0].save(stream, "png")
    assert match(image=stream, text="the dog") == match(image=PICTURES[0], text="the dog")
    assert match(image=[stream], text="the dog") == match(image=PICTURES[:1], text="the dog")
    several = match(image=stream, text=["the dog"] * 3, batch_size=1)
    assert several == match(image=PICTURES[0], text=["the dog"] * 3, batch_size=1)


def test_a_dark_half_of_16_bits_is_not_white(exported: Exported) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (30, 60), dtype=np.uint8)
    wide = Image.fromarray(grey.astype(np.uint16) * 257)  # 255 * 257 = 65535
    match = pipeline("itm", exported("pretrain"))
    assert match(image=wide, text="the dog") == match(image=Image.fromarray(grey), text="the dog")


def test_a_description_with_impossible_options_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = shutil.copytree(exported("vqa"), tmp_path / "vqa")
    config = json.loads((folder / "config.json").read_text())
    for value, message in (("4", "give a whole number"), (-4, "must be at least 1")):
        (folder / "config.json").write_text(json.dumps({**config, "options": {"answers": value}}))
        with pytest.raises(UserError, match=f"vqa: options: answers = {value!r}: {message}"):
            pipeline("vqa", folder)
