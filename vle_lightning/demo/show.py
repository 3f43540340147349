"""Pictures as the page shows them: small ones enlarged, large ones reduced, with heat or boxes over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.transforms import View
from vle_lightning.inference.pictures import OPACITY, draw_heat

SMALL, LARGE = 480, 1024  # pixels of the longer side as shown, at least and at most
COLOURS = ("#e6194b", "#0082c8", "#f58231", "#911eb4", "#008080", "#808000", "#e01fc2", "#3cb44b")


def readable(picture: Image.Image) -> Image.Image:
    """Return a picture at a size that the page can show; small ones keep their pixels visible."""
    longest = max(picture.size)
    if longest > LARGE:
        reduced = picture.copy()
        reduced.thumbnail((LARGE, LARGE))
        return reduced
    zoom = math.ceil(SMALL / longest)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def heated(picture: Image.Image, heat: Sequence[Sequence[float]], view: View, opacity: float = OPACITY) -> Image.Image:
    """Draw heat in [0, 1] over a picture; the view is the part of it that the model saw."""
    return draw_heat(readable(picture), np.asarray(heat, np.float32).clip(0, 1), view, opacity=opacity)


def attended(picture: Image.Image, attention: Sequence[Sequence[float]] | None, view: View) -> Image.Image | None:
    """Draw attention over a picture, relative to the patch that gets most; None of a model that sees no pictures."""
    if attention is None:
        return None
    shares = np.asarray(attention, np.float32)
    return heated(picture, (shares / max(float(shares.max()), 1e-12)).tolist(), view)


def boxed(
    picture: Image.Image,
    names: Sequence[str],
    boxes: Sequence[Sequence[float]],
    corner: tuple[float, float] | None = None,
) -> Image.Image:
    """Draw numbered boxes on a picture.

    Args:
        picture: W x H pixels.
        names: the class of each box.
        boxes: xyxy in pixels of the picture.
        corner: the first corner of a box that is being drawn.
    """
    shown = readable(picture)
    across, down = shown.width / picture.width, shown.height / picture.height
    draw = ImageDraw.Draw(shown)
    font = ImageFont.load_default(size=max(14, max(shown.size) // 30))
    for number, (name, box) in enumerate(zip(names, boxes, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        x0, y0, x1, y1 = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=4)
        told = f"{number} {name}"
        left, top, right, bottom = draw.textbbox((x0 + 6, y0 + 4), told, font=font)
        draw.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=colour)
        draw.text((x0 + 6, y0 + 4), told, fill="white", font=font)
    if corner is not None:
        x, y = corner[0] * across, corner[1] * down
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=COLOURS[0], outline="white", width=2)
    return shown
