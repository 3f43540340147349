"""Scenes of three boxes in NLVR's style: scattered objects, or towers of blocks.

Numbers, colours, shapes, sizes and places follow the distributions of the official data's scenes (Suhr et al., ACL
2017): an object's corner is uniform over its box, and one that would hang over the right or lower edge is moved to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from datamodules.prepare.hold_out import split_of

COLOURS = ("yellow", "black", "blue")
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 10, "medium": 20, "big": 30}
BOX_PIXELS, BOXES, MOST_SCATTERED, MOST_BLOCKS = 100, 3, 7, 4
BLOCK_PIXELS, BLOCK_LEFT, BLOCK_STEP = 20, 40, 21  # of towers: blocks stand one pixel apart

VAL_SHARE = 0.1  # of all scenes, which val alone may show

Layout = Literal["scattered", "towers"]


class Item(NamedTuple):
    """One object; x and y are its upper left corner in its box, in pixels."""

    x: int
    y: int
    pixels: int
    shape: str
    colour: str

    @property
    def gaps(self) -> tuple[int, int, int, int]:
        """Return the distances to the left, upper, right and lower wall; 0 is touching."""
        return self.x, self.y, BOX_PIXELS - self.x - self.pixels, BOX_PIXELS - self.y - self.pixels

    def overlaps(self, other: Item) -> bool:
        """Say whether two objects share pixels, or leave none between them."""
        return (
            self.x <= other.x + other.pixels
            and other.x <= self.x + self.pixels
            and self.y <= other.y + other.pixels
            and other.y <= self.y + self.pixels
        )


Box: TypeAlias = tuple[Item, ...]  # the blocks of a tower from base to top
Scene: TypeAlias = tuple[Box, ...]


def draw_scene(layout: Layout, rng: np.random.Generator) -> Scene:
    """Draw three boxes."""
    draw = _scatter if layout == "scattered" else _stack
    return tuple(draw(rng) for _ in range(BOXES))


def draw_scene_of(split: str, layout: Layout, rng: np.random.Generator) -> Scene:
    """Draw three boxes that the split alone may show: small towers are few, and would occur in both."""
    while split_of(repr(scene := draw_scene(layout, rng)), VAL_SHARE) != split:
        pass
    return scene


def items_of(scene: Scene) -> Iterator[Item]:
    """Yield the objects of all boxes."""
    for box in scene:
        yield from box


def _stack(rng: np.random.Generator) -> Box:
    colours = rng.integers(len(COLOURS), size=int(rng.integers(1, MOST_BLOCKS + 1))).tolist()
    base = BOX_PIXELS - BLOCK_PIXELS
    return tuple(
        Item(BLOCK_LEFT, base - BLOCK_STEP * level, BLOCK_PIXELS, "square", COLOURS[colour])
        for level, colour in enumerate(colours)
    )


def _scatter(rng: np.random.Generator) -> Box:
    wanted = int(rng.integers(1, MOST_SCATTERED + 1))
    placed: list[Item] = []
    pixels = tuple(SIZES.values())
    while len(placed) < wanted:
        x, y, size, shape, colour = rng.integers(
            (BOX_PIXELS, BOX_PIXELS, len(SIZES), len(SHAPES), len(COLOURS))
        ).tolist()
        side = pixels[size]
        item = Item(min(x, BOX_PIXELS - side), min(y, BOX_PIXELS - side), side, SHAPES[shape], COLOURS[colour])
        if not any(item.overlaps(other) for other in placed):
            placed.append(item)
    return tuple(placed)
