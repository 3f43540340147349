"""Places in a box that objects touch: walls and corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from datamodules.nlvr_world.phrases import pick
from datamodules.nlvr_world.scenes import Item

LEFT, UPPER, RIGHT, LOWER = range(4)  # of Item.gaps


class Place(NamedTuple):
    """A wall, some wall, or a corner that objects touch."""

    words: str
    touched: Callable[[Item], bool]


def draw_place(rng: np.random.Generator, away: bool = False) -> Place:
    """Draw a place, any wall most often; for objects away from it no "a wall", which may be one of several."""
    form = rng.random()
    any_wall = (
        "the wall",
        "the edge",
        "an edge",
        "a wall",
        "the side",
        "a side",
        "the wall of the box",
        "a wall of a box",
    )
    if form < 0.45:
        words = pick(rng, *(("any wall", "any edge", "the wall") if away else any_wall))
        return Place(words, lambda item: 0 in item.gaps)
    if form < 0.6:
        corners = ("a corner", "the corner", "a corner of a box", "the corner of the box", "one of the corners")
        words = "any corner" if away else pick(rng, *corners)
        return Place(words, lambda item: 0 in item.gaps[:3:2] and 0 in item.gaps[1::2])
    if form < 0.85:
        words = pick(
            rng, "the base", "the bottom", "the bottom of a box", "the base of the box", "the floor", "the bottom base"
        )
        return Place(words, lambda item: item.gaps[LOWER] == 0)
    if form < 0.9:
        words = pick(rng, "the top", "the roof of a box", "the top of the box", "the upper wall")
        return Place(words, lambda item: item.gaps[UPPER] == 0)
    side, wall = (("right", RIGHT), ("left", LEFT))[int(rng.random() < 0.2)]
    words = pick(rng, f"the {side} wall", f"{side} wall of a box", f"the {side} side", f"the {side} edge of the box")
    return Place(words, lambda item: item.gaps[wall] == 0)


def touching(rng: np.random.Generator) -> str:
    """Draw a way to say touching."""
    return pick(rng, "touching", "touching", "closely touching", "in touch with")
