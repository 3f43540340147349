"""Statements with two scenes each, one that they are true of and one that they are false of.

Each text occurs once with each label: whoever sees the text alone is right half of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datamodules.nlvr_world.chunks import draw_layout
from datamodules.nlvr_world.scenes import Layout, Scene, draw_scene_of
from datamodules.nlvr_world.statements import Statement, draw_statement

TRIES = 60  # scenes drawn for a statement; one that is not both true and false among them is dropped


class Pair(NamedTuple):
    """A statement, a scene that it is true of, and one that it is false of."""

    text: str
    true: Scene
    false: Scene


def draw_pair(split: str, rng: np.random.Generator, easy: bool = False) -> Pair:
    """Draw statements, easy ones or any, until one has both scenes."""
    while True:
        layout = draw_layout(rng)
        pair = find_scenes(draw_statement(layout, rng, easy), split, layout, rng)
        if pair is not None:
            return pair


def find_scenes(statement: Statement, split: str, layout: Layout, rng: np.random.Generator) -> Pair | None:
    """Draw scenes of a split until the statement has been true and false; None after too many."""
    found: dict[bool, Scene] = {}
    for _ in range(TRIES):
        scene = draw_scene_of(split, layout, rng)
        if statement.about(scene):
            found.setdefault(statement.holds(scene), scene)
        if len(found) == 2:
            return Pair(statement.text, found[True], found[False])
    return None
