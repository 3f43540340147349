"""The toy world: small scenes of coloured shapes on a 3 x 3 grid, and how they are painted.

Colour, shape and size of every object are uniform and independent, and so are the cells: whatever a text
leaves unsaid can only be learned from the picture. That symmetry makes ``references.json`` exact.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "medium", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
CELLS = len(ROWS) * len(COLUMNS)
RELATIONS = ("left of", "right of", "above", "below")
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

CELL_PIXELS = 16
SCENE_PIXELS = 48
SIZE_PIXELS = (8, 12, 16)
JITTER_PIXELS = 4
OBJECT_COUNTS = (2, 3, 4, 5)

_PAINT = np.array(
    [(215, 35, 35), (35, 165, 50), (40, 70, 220), (240, 215, 40), (165, 40, 180), (40, 205, 215)], np.float32
)
_OVERSAMPLING = 8

Pixels: TypeAlias = NDArray[np.uint8]
SceneKey: TypeAlias = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class SceneObject:
    """One object; attributes are positions in the word lists, pixels count from the upper left corner."""

    cell: int  # row * 3 + column
    colour: int
    shape: int
    size: int
    x: int
    y: int

    @property
    def row(self) -> int:
        """Return the row, 0 at the top."""
        return self.cell // len(COLUMNS)

    @property
    def column(self) -> int:
        """Return the column, 0 at the left."""
        return self.cell % len(COLUMNS)

    @property
    def pixels(self) -> int:
        """Return the edge of the box."""
        return SIZE_PIXELS[self.size]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return the tight box, xyxy in pixels."""
        return self.x, self.y, self.x + self.pixels, self.y + self.pixels

    @property
    def class_name(self) -> str:
        """Return colour and shape, such as "red circle"."""
        return CLASSES[self.class_id]

    @property
    def class_id(self) -> int:
        """Return the position in CLASSES."""
        return self.colour * len(SHAPES) + self.shape


@dataclass(frozen=True)
class Scene:
    """Two to five objects in distinct cells, in random order: a number says nothing about a place."""

    objects: tuple[SceneObject, ...]

    @property
    def key(self) -> SceneKey:
        """Return what the scene shows, without jitter and order: no text tells equal keys apart."""
        return tuple(sorted((o.cell, o.colour, o.shape, o.size) for o in self.objects))


def place(cell: int) -> str:
    """Return the words for a cell, such as "top left"."""
    return f"{ROWS[cell // len(COLUMNS)]} {COLUMNS[cell % len(COLUMNS)]}"


def relations(one: SceneObject, other: SceneObject) -> tuple[str, ...]:
    """Return every relation that holds between two objects by their cells."""
    return cell_relations(one.cell, other.cell)


@functools.cache
def cell_relations(one: int, other: int) -> tuple[str, ...]:
    """Return every relation that holds between two cells: one in a shared row or column, else two."""
    (row, column), (other_row, other_column) = (divmod(cell, len(COLUMNS)) for cell in (one, other))
    found = []
    if column != other_column:
        found.append("left of" if column < other_column else "right of")
    if row != other_row:
        found.append("above" if row < other_row else "below")
    return tuple(found)


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: the number of objects, their cells and attributes uniformly."""
    count = int(rng.choice(OBJECT_COUNTS))
    cells = rng.permutation(CELLS)[:count]
    return Scene(tuple(_draw_object(int(cell), rng) for cell in cells))


def _draw_object(cell: int, rng: np.random.Generator) -> SceneObject:
    colour, shape, size = (int(rng.integers(len(words))) for words in (COLOURS, SHAPES, SIZES))
    shifts = JITTER_PIXELS * rng.integers((CELL_PIXELS - SIZE_PIXELS[size]) // JITTER_PIXELS + 1, size=2)
    row, column = divmod(cell, len(COLUMNS))
    return SceneObject(
        cell, colour, shape, size, column * CELL_PIXELS + int(shifts[0]), row * CELL_PIXELS + int(shifts[1])
    )


def render(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Paint a scene (48, 48, 3): a grey textured ground, then every object in a shade of its colour."""
    canvas = _ground(rng)
    for item in scene.objects:
        x0, y0, x1, y1 = item.box
        paint = _PAINT[item.colour] * rng.uniform(0.88, 1.08) + rng.uniform(-8, 8, 3)
        alpha = stencil(item.shape, item.pixels)
        canvas[y0:y1, x0:x1] += alpha * (paint - canvas[y0:y1, x0:x1])
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _ground(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (48, 48, 3) grey: a level, a slope in a random direction, a faint tint and noise."""
    ramp = np.linspace(-1, 1, SCENE_PIXELS, dtype=np.float32)
    slopes = rng.uniform(-18, 18, 2).astype(np.float32)
    level = rng.uniform(105, 165) + slopes[0] * ramp[:, None] + slopes[1] * ramp[None, :]
    noise = rng.standard_normal((SCENE_PIXELS, SCENE_PIXELS, 1), np.float32) * 7
    tint = rng.uniform(-6, 6, 3).astype(np.float32)
    ground: NDArray[np.float32] = (level[:, :, None] + noise + tint).astype(np.float32)
    return ground


def coverage(item: SceneObject) -> NDArray[np.float32]:
    """Return how much of each pixel of its box an object covers, (pixels, pixels) in [0, 1]."""
    covered: NDArray[np.float32] = stencil(item.shape, item.pixels)[..., 0]
    return covered


@functools.cache
def stencil(shape: int, pixels: int) -> NDArray[np.float32]:
    """Return how much of each pixel the shape covers, (pixels, pixels, 1); it touches all four edges."""
    fine = (np.arange(pixels * _OVERSAMPLING, dtype=np.float32) + 0.5) / (pixels * _OVERSAMPLING) * 2 - 1
    y, x = fine[:, None], fine[None, :]
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": (np.abs(x) <= 1) & (np.abs(y) <= 1),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": (np.abs(x) <= 0.34) | (np.abs(y) <= 0.34),
    }[SHAPES[shape]]
    blocks = inside.reshape(pixels, _OVERSAMPLING, pixels, _OVERSAMPLING)
    share: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)[:, :, None]
    return share
