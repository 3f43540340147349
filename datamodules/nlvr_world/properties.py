"""The properties of both layouts, each with its weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.nlvr_world import box_properties as boxes
from datamodules.nlvr_world import tower_properties as towers
from datamodules.nlvr_world.phrases import choose
from datamodules.nlvr_world.property import Draw, Property
from datamodules.nlvr_world.scenes import Layout

PROPERTIES: dict[Layout, Sequence[tuple[float, Draw]]] = {
    "scattered": (
        (4, boxes.counted),
        (4, boxes.counted_kinds),
        (2, boxes.counted_all),
        (1.5, boxes.share),
        (2, boxes.only),
        (1.5, boxes.colours),
        (0.5, boxes.same_form),
        (2, boxes.placed),
        (1, boxes.topmost),
    ),
    "towers": (
        (5, towers.block_at),
        (3, towers.coloured_blocks),
        (2, towers.blocks),
        (3, towers.stacked),
        (1.5, towers.only_blocks),
        (1.5, towers.block_colours),
        (1, towers.ends),
        (1, towers.run_at_end),
        (1, towers.together),
        (0.7, towers.between),
        (1.5, towers.height_and),
    ),
}


def draw_property(layout: Layout, rng: np.random.Generator) -> Property:
    """Draw a property of a box of a layout."""
    return choose(rng, PROPERTIES[layout])(rng)
