"""Captions that name objects of a scene, with the objects that they mention: what PBC learns from.

Most name objects by kind and place ("blue circles touching the wall"), the others name boxes or towers by a property
("a tower with a black block at the top"), whose objects are mentioned all together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from datamodules.nlvr_world.phrases import chance, draw_block, draw_kind, numeral, pick
from datamodules.nlvr_world.places import draw_place, touching
from datamodules.nlvr_world.properties import draw_property
from datamodules.nlvr_world.property import Property
from datamodules.nlvr_world.scenes import MOST_BLOCKS, Box, Item, Layout, Scene
from datamodules.nlvr_world.statements import BOX_NOUNS
from datamodules.nlvr_world.tower_properties import LEVELS

TRIES = 50  # names for the objects of a scene; most draws name none of them
OBJECTS = 0.65  # share of the names that are of objects, the others are of boxes


class Name(NamedTuple):
    """Words for objects, and which objects of a box they name; ``about`` tells the boxes that decide it."""

    words: str
    chosen: Callable[[Box], Sequence[Item]]
    about: Callable[[Box], bool] = lambda box: True


class Caption(NamedTuple):
    """A text, and which objects it mentions: numbers of box and object."""

    text: str
    mentions: tuple[tuple[int, int], ...]


DrawName: TypeAlias = Callable[[np.random.Generator], Name]


def draw_captions(scene: Scene, layout: Layout, count: int, rng: np.random.Generator) -> list[Caption]:
    """Draw at most ``count`` captions, each of which mentions some of the objects."""
    captions: list[Caption] = []
    for _ in range(TRIES):
        name = (_of_objects if chance(rng, OBJECTS) else _of_boxes)[layout](rng)
        named = [{id(item) for item in name.chosen(box)} for box in scene]
        mentions = tuple(
            (place, number) for place, box in enumerate(scene) for number, i in enumerate(box) if id(i) in named[place]
        )
        if mentions and all(map(name.about, scene)):
            captions.append(Caption(name.words, mentions))
        if len(captions) == count:
            break
    return captions


def _box(rng: np.random.Generator) -> Name:
    return _with(rng, pick(rng, *BOX_NOUNS), draw_property("scattered", rng))


def _tower(rng: np.random.Generator) -> Name:
    return _with(rng, "tower", draw_property("towers", rng))


def _with(rng: np.random.Generator, noun: str, prop: Property) -> Name:
    """Name all the boxes with a property, so neither "one" nor "the": several may have it."""
    joint = pick(rng, "with", "with", "that has", "which has", "containing", "having")
    words = f"{pick(rng, f'a {noun}', noun)} {joint} {prop.words}"
    return Name(words, lambda box: box if prop.holds(box) else (), prop.about)


def _objects(rng: np.random.Generator) -> Name:
    """Name scattered objects by kind, and by the wall that they touch or do not touch."""
    kind = draw_kind(rng)
    noun = pick(rng, kind.noun, kind.nouns, kind.one)
    if chance(rng, 0.5):
        return Name(noun, lambda box: [i for i in box if kind.matches(i)])
    away = chance(rng, 0.2)
    place = draw_place(rng, away)
    words = f"{noun} {'not touching' if away else touching(rng)} {place.words}"
    return Name(words, lambda box: [i for i in box if kind.matches(i) and place.touched(i) != away])


def _blocks(rng: np.random.Generator) -> Name:
    """Name blocks by colour, and by their level, their tower's height or the block below or above."""
    kind, form = draw_block(rng), rng.random()
    noun = pick(rng, kind.noun, kind.nouns, kind.one)
    if form < 0.2:
        return Name(noun, lambda box: [i for i in box if kind.matches(i)])
    if form < 0.4:
        words = pick(rng, "at the base", "as the base", "at the bottom", "as the base of a tower", "at base")
        return Name(f"{noun} {words}", lambda box: [i for i in box[:1] if kind.matches(i)])
    if form < 0.6:
        words = pick(rng, "at the top", "as the top", "on top", "as the top of a tower", "on the top")
        return Name(f"{noun} {words}", lambda box: [i for i in box[-1:] if kind.matches(i)])
    if form < 0.7:
        level = int(rng.integers(1, MOST_BLOCKS))
        words = pick(
            rng, f"as the {LEVELS[level]} block from the base", f"at the {LEVELS[level]} place from the bottom"
        )
        return Name(f"{noun} {words}", lambda box: [i for i in box[level : level + 1] if kind.matches(i)])
    if form < 0.8:
        height = int(rng.integers(1, MOST_BLOCKS + 1))
        words = f"in a tower with {numeral(rng, height)} block{'' if height == 1 else 's'}"
        return Name(f"{noun} {words}", lambda box: [i for i in box if kind.matches(i) and len(box) == height])
    other = draw_block(rng)
    if form < 0.9:
        words = f"{noun} {pick(rng, 'above', 'over', 'on', 'on top of')} {other.one}"
        return Name(words, lambda box: [high for low, high in _steps(box) if kind.matches(high) and other.matches(low)])
    words = f"{noun} {pick(rng, 'below', 'under', 'beneath')} {other.one}"
    return Name(words, lambda box: [low for low, high in _steps(box) if kind.matches(low) and other.matches(high)])


def _steps(box: Box) -> Sequence[tuple[Item, Item]]:
    """Return each block with the one above it."""
    return list(zip(box, box[1:], strict=False))


_of_objects: dict[Layout, DrawName] = {"scattered": _objects, "towers": _blocks}
_of_boxes: dict[Layout, DrawName] = {"scattered": _box, "towers": _tower}
