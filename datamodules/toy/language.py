"""Captions and region phrases: no filler words, so that every word tells something of the picture.

PLACE form:    "small red circle top left large blue square middle right"
RELATION form: "small red circle left of large blue square above medium green cross"
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.toy.commonsense import vcr_items
from datamodules.toy.world import (
    COLOURS,
    COLUMNS,
    RELATIONS,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    place,
    relations,
)

__all__ = [
    "Caption",
    "Statement",
    "captions",
    "fitting",
    "likelihood",
    "parse",
    "phrase",
    "readings",
    "vcr_items",
]

MOST_NAMED = 3


@dataclass(frozen=True)
class Caption:
    """A caption and the objects that it can be speaking of.

    Where two objects fit the same words ("small red circle" of two such), both count as mentioned: picture
    and text then always tell which boxes are.
    """

    text: str
    objects: tuple[int, ...]  # numbers in scene.objects, ascending


@dataclass(frozen=True)
class Statement:
    """The meaning of a caption: named kinds of objects, each with a place or a relation to the next."""

    kinds: tuple[tuple[int, int, int], ...]  # size, colour, shape
    cells: tuple[int, ...] | None  # PLACE form
    relations: tuple[str, ...] | None  # RELATION form; relations[i] is between kinds[i] and kinds[i + 1]

    @property
    def text(self) -> str:
        """Return the caption's words."""
        phrases = [f"{SIZES[size]} {COLOURS[colour]} {SHAPES[shape]}" for size, colour, shape in self.kinds]
        if self.cells is not None:
            return " ".join(f"{words} {place(cell)}" for words, cell in zip(phrases, self.cells, strict=True))
        links = itertools.chain(self.relations or (), ("",))
        return " ".join(f"{words} {link}".strip() for words, link in zip(phrases, links, strict=True))


def phrase(item: SceneObject, *, with_place: bool = False) -> str:
    """Return the words for an object, such as "small red circle" or "small red circle top left"."""
    return Statement((_kind(item),), (item.cell,) if with_place else None, None).text


def captions(scene: Scene, rng: np.random.Generator, count: int) -> list[Caption]:
    """Draw ``count`` independent captions, half in each form, naming one to three objects in random order."""
    return [_caption(scene, rng) for _ in range(count)]


def _caption(scene: Scene, rng: np.random.Generator) -> Caption:
    named = 1 + int(rng.integers(min(MOST_NAMED, len(scene.objects))))
    chosen = [scene.objects[i] for i in rng.permutation(len(scene.objects))[:named]]
    kinds = tuple(_kind(item) for item in chosen)
    if rng.random() < 0.5:
        statement = Statement(kinds, tuple(item.cell for item in chosen), None)
    else:
        links = [relations(one, other) for one, other in itertools.pairwise(chosen)]
        statement = Statement(kinds, None, tuple(str(link[rng.integers(len(link))]) for link in links))
    mentioned = {i for numbers in fitting(statement, scene.objects) for i in numbers}
    return Caption(statement.text, tuple(sorted(mentioned)))


def fitting(statement: Statement, objects: Sequence[SceneObject]) -> Iterator[tuple[int, ...]]:
    """Yield each reading of a statement: a tuple of distinct object numbers of which every word is true."""
    candidates = [
        [i for i, item in enumerate(objects) if _kind(item) == kind and _at(statement, position, item)]
        for position, kind in enumerate(statement.kinds)
    ]
    for numbers in itertools.product(*candidates):
        if len(set(numbers)) < len(numbers):
            continue
        pairs = itertools.pairwise(objects[i] for i in numbers)
        if statement.relations is None or all(
            link in relations(*pair) for pair, link in zip(pairs, statement.relations, strict=True)
        ):
            yield numbers


def readings(scene: Scene) -> Iterator[tuple[Statement, float]]:
    """Yield every statement that ``captions`` can draw of a scene, with its probability; texts may repeat."""
    count = len(scene.objects)
    longest = min(MOST_NAMED, count)
    for named in range(1, longest + 1):
        share = 0.5 / longest / math.perm(count, named)
        for chosen in itertools.permutations(scene.objects, named):
            kinds = tuple(_kind(item) for item in chosen)
            yield Statement(kinds, tuple(item.cell for item in chosen), None), share
            choices = list(itertools.product(*(relations(*pair) for pair in itertools.pairwise(chosen))))
            for links in choices:
                yield Statement(kinds, None, links), share / len(choices)


def likelihood(statement: Statement, objects: Sequence[SceneObject]) -> float:
    """Return the probability that a caption of a scene with these objects reads like this."""
    count, named = len(objects), len(statement.kinds)
    longest = min(MOST_NAMED, count)
    if named > longest:
        return 0.0
    total = 0.0
    for numbers in fitting(statement, objects):
        pairs = itertools.pairwise(objects[i] for i in numbers)
        total += math.prod(1 / len(relations(*pair)) for pair in pairs) if statement.relations else 1.0
    return 0.5 / longest / math.perm(count, named) * total


def parse(text: str) -> Statement:
    """Read a caption back into its meaning.

    Raises:
        ValueError: The text is no caption of this world.
    """
    words = text.replace(" of", "_of").split()
    kinds, cells, links = [], [], []
    try:
        while words:
            size, colour, shape, *words = words
            kinds.append((SIZES.index(size), COLOURS.index(colour), SHAPES.index(shape)))
            if words and words[0] in ROWS:
                row, column, *words = words
                cells.append(ROWS.index(row) * len(COLUMNS) + COLUMNS.index(column))
            elif words:
                links.append(RELATIONS[RELATIONS.index(words.pop(0).replace("_", " "))])
    except ValueError as error:
        raise ValueError(f"not a caption of the toy world: {text!r}") from error
    statement = Statement(tuple(kinds), tuple(cells), None) if cells else Statement(tuple(kinds), None, tuple(links))
    if len(kinds) != (len(cells) or len(links) + 1) or statement.text != text:
        raise ValueError(f"not a caption of the toy world: {text!r}")
    return statement


def _at(statement: Statement, position: int, item: SceneObject) -> bool:
    return statement.cells is None or statement.cells[position] == item.cell


def _kind(item: SceneObject) -> tuple[int, int, int]:
    return item.size, item.colour, item.shape
