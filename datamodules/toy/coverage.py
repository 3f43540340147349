"""Which patches objects cover, and which ones a caption alone lets one expect them to cover.

The toy model's patches have 8 px, so a cell is 2 x 2 patches and a scene 6 x 6.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from datamodules.toy.language import Statement
from datamodules.toy.world import (
    CELL_PIXELS,
    CELLS,
    COLUMNS,
    JITTER_PIXELS,
    SCENE_PIXELS,
    SIZE_PIXELS,
    SceneObject,
    cell_relations,
)

PATCH_PIXELS = 8
GRID = SCENE_PIXELS // PATCH_PIXELS
PATCHES_PER_CELL = CELL_PIXELS // PATCH_PIXELS

Span = tuple[int, int]  # first patch and the one after the last, along one axis, counted from the cell's edge


@functools.cache
def span_shares(size: int) -> dict[Span, float]:
    """Return how likely an object of this size covers each span of patches along one axis."""
    starts = range(0, CELL_PIXELS - SIZE_PIXELS[size] + 1, JITTER_PIXELS)
    shares: dict[Span, float] = {}
    for start in starts:
        span = _span(start, SIZE_PIXELS[size])
        shares[span] = shares.get(span, 0.0) + 1 / len(starts)
    return shares


def footprint_likelihood(item: SceneObject, size: int) -> float:
    """Return the probability that an object of ``size`` in the item's cell covers just the item's patches."""
    spans = (_span(edge % CELL_PIXELS, item.pixels) for edge in (item.x, item.y))
    return math.prod(span_shares(size).get(span, 0.0) for span in spans)


def covered(items: Iterable[SceneObject]) -> NDArray[np.bool_]:
    """Return which patches the boxes of the items overlap, (GRID, GRID)."""
    patches = np.zeros((GRID, GRID), bool)
    for item in items:
        (left, right), (top, bottom) = _span(item.x, item.pixels), _span(item.y, item.pixels)
        patches[top:bottom, left:right] = True
    return patches


def expected_coverage(statement: Statement) -> NDArray[np.float64]:
    """Return how likely the objects that a caption names cover each patch, (GRID, GRID), without the picture.

    Places say the cell; relations give a distribution over cells. That another object could fit the same
    words, and then counts as mentioned too, is left out: it is rare, and no reader knows where it would be.
    """
    expected = np.zeros((GRID, GRID))
    for cells, kind in zip(_cell_shares(statement), statement.kinds, strict=True):
        block = _cell_coverage(kind[0])
        expected += np.kron(cells.reshape(-1, len(COLUMNS)), block)
    return expected


def _cell_shares(statement: Statement) -> NDArray[np.float64]:
    """Return how likely each named object lies in each cell, (named, CELLS)."""
    if statement.cells is not None:
        return np.eye(CELLS)[list(statement.cells)]
    return _related_cells(statement.relations or ())


@functools.cache
def _related_cells(links: tuple[str, ...]) -> NDArray[np.float64]:
    """Weigh every choice of distinct cells by the chance that its relations read like ``links``."""
    shares = np.zeros((len(links) + 1, CELLS))
    for cells in itertools.permutations(range(CELLS), len(links) + 1):
        found = [cell_relations(*pair) for pair in itertools.pairwise(cells)]
        if all(link in names for link, names in zip(links, found, strict=True)):
            shares[range(len(cells)), cells] += math.prod(1 / len(names) for names in found)
    normalised: NDArray[np.float64] = shares / shares.sum(1, keepdims=True)
    return normalised


@functools.cache
def _cell_coverage(size: int) -> NDArray[np.float64]:
    """Return how likely an object of this size covers each patch of its cell, (2, 2)."""
    axis = np.zeros(PATCHES_PER_CELL)
    for (start, end), share in span_shares(size).items():
        axis[start:end] += share
    return np.outer(axis, axis)


def _span(start: int, pixels: int) -> Span:
    return start // PATCH_PIXELS, -(-(start + pixels) // PATCH_PIXELS)
