"""Phrases that may leave words out ("red top left"), and of which scenes they are true.

The tasks' sentences are made of them: statements about pairs, hypotheses, captions of whole scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from datamodules.toy.world import CELLS, COLOURS, SHAPES, SIZES, Scene, SceneObject, place

KINDS_OF_WORDS = (SIZES, COLOURS, SHAPES)  # in the order of a phrase
UNSAID = -1
EMPTY = -2

Attributes: TypeAlias = tuple[int, int, int]  # size, colour, shape: positions in the word lists, or UNSAID
Table: TypeAlias = NDArray[np.int8]  # (3, scenes, CELLS): size, colour, shape of the object in each cell, or EMPTY


@dataclass(frozen=True)
class Phrase:
    """Some of the words for an object, at least one of them, perhaps with its place."""

    attributes: Attributes
    cell: int | None

    @property
    def text(self) -> str:
        """Return the words, such as "red top left"."""
        named = zip(KINDS_OF_WORDS, self.attributes, strict=True)
        words = [words[value] for words, value in named if value != UNSAID]
        return " ".join(words if self.cell is None else [*words, place(self.cell)])

    def holds(self, table: Table) -> NDArray[np.bool_]:
        """Return which scenes have an object that fits, (scenes,)."""
        cells = table if self.cell is None else table[:, :, self.cell : self.cell + 1]
        named = zip(cells, self.attributes, strict=True)
        fits = np.logical_and.reduce([values == value for values, value in named if value != UNSAID])
        held: NDArray[np.bool_] = fits.any(1)
        return held


def attributes_of(item: SceneObject) -> Attributes:
    """Return all that can be said of an object but its place."""
    return item.size, item.colour, item.shape


def draw_phrase(item: SceneObject, rng: np.random.Generator, placed: float = 1.0) -> Phrase:
    """Keep a random, non-empty choice of the object's words, and its place with probability ``placed``."""
    kept = 1 + int(rng.integers(2 ** len(KINDS_OF_WORDS) - 1))
    size, colour, shape = (value if kept >> bit & 1 else UNSAID for bit, value in enumerate(attributes_of(item)))
    return Phrase((size, colour, shape), item.cell if rng.random() < placed else None)


def scene_table(scenes: Sequence[Scene]) -> Table:
    """Return what is in each cell of each scene."""
    table = np.full((len(KINDS_OF_WORDS), len(scenes), CELLS), EMPTY, np.int8)
    for number, scene in enumerate(scenes):
        for item in scene.objects:
            table[:, number, item.cell] = attributes_of(item)
    return table
