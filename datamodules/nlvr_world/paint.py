"""Drawings of scenes as NLVR's official files have them: 400 x 100 pixels, three light boxes on grey."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from datamodules.nlvr_world.scenes import BOX_PIXELS, Scene
from datamodules.toy.world import SHAPES, stencil

SLOT_PIXELS = 150  # from the left wall of a box to that of the next
WIDTH, HEIGHT = 400, 100
LIGHT, GREY = 211, 128  # lightgray of the boxes, gray between them
PAINT = {"yellow": (255, 255, 0), "black": (0, 0, 0), "blue": (0, 153, 255)}
OFFICIAL = {"yellow": "Yellow", "black": "Black", "blue": "#0099ff"}  # as structured_rep spells them


def paint(scene: Scene) -> Image.Image:
    """Paint a scene, its edges smoothed."""
    canvas = np.full((HEIGHT, WIDTH, 3), GREY, np.float32)
    for number, box in enumerate(scene):
        left = number * SLOT_PIXELS
        canvas[:, left : left + BOX_PIXELS] = LIGHT
        for item in box:
            part = canvas[item.y : item.y + item.pixels, left + item.x : left + item.x + item.pixels]
            part += stencil(SHAPES.index(item.shape), item.pixels) * (np.array(PAINT[item.colour], np.float32) - part)
    return Image.fromarray(np.rint(canvas).astype(np.uint8))


def png(scene: Scene) -> bytes:
    """Return the file of a scene's drawing."""
    file = io.BytesIO()
    paint(scene).save(file, "PNG", compress_level=3)
    return file.getvalue()


def structured(scene: Scene) -> list[list[dict[str, int | str]]]:
    """Return a scene as the official rows describe it."""
    return [
        [{"type": i.shape, "color": OFFICIAL[i.colour], "x_loc": i.x, "y_loc": i.y, "size": i.pixels} for i in box]
        for box in scene
    ]
