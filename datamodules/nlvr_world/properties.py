"""Properties of one box or tower, each a noun phrase that goes behind "with" and "has"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, groupby, takewhile
from typing import NamedTuple, TypeAlias

import numpy as np

from datamodules.nlvr_world.phrases import (
    NAMES,
    Kind,
    chance,
    compare,
    draw_block,
    draw_kind,
    draw_number,
    numeral,
    pick,
)
from datamodules.nlvr_world.scenes import COLOURS, MOST_BLOCKS, MOST_SCATTERED, SHAPES, Box, Item, Layout


class Property(NamedTuple):
    """Words and meaning; ``about`` tells the boxes that decide it."""

    words: str
    holds: Callable[[Box], bool]
    about: Callable[[Box], bool] = lambda box: True
    compares: bool = False  # "all boxes have items of the same shape" may compare boxes, "each box has" does not


Draw: TypeAlias = Callable[[np.random.Generator], Property]
LEVELS = ("first", "second", "third", "fourth")
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


def counted(rng: np.random.Generator) -> Property:
    """So many of one kind: "at least two black squares"."""
    kind, number = draw_kind(rng), draw_number(rng, 4)
    return Property(kind.named(number), lambda box: number.test(kind.count(box)))


def counted_kinds(rng: np.random.Generator) -> Property:
    """Two or three kinds side by side: "a black circle, a square and two blue items"."""
    kinds = _kinds_apart(rng, 3 if chance(rng, 0.3) else 2)
    numbers = [draw_number(rng, 2) for _ in kinds]
    *first, last = [kind.named(number) for kind, number in zip(kinds, numbers, strict=True)]
    return Property(
        f"{', '.join(first)}{pick(rng, ' and ', ' and ', ', and ')}{last}",
        lambda box: all(number.test(kind.count(box)) for kind, number in zip(kinds, numbers, strict=True)),
    )


def _kinds_apart(rng: np.random.Generator, count: int) -> list[Kind]:
    """Draw kinds that share no object, as a listener takes kinds side by side to be different objects."""
    while True:
        kinds = [draw_kind(rng) for _ in range(count)]
        if all(one.excludes(other) for one, other in combinations(kinds, 2)):
            return kinds


def counted_all(rng: np.random.Generator) -> Property:
    """So many objects altogether: "exactly three items"."""
    number, noun = draw_number(rng, MOST_SCATTERED - 1), pick(rng, "item", "object", "shape", "thing")
    words = f"{number.words} {noun}{'s' if number.plural else ''}"
    if number.words == "a":
        words = pick(rng, f"just one {noun}", f"a single {noun}")
        return Property(words, lambda box: len(box) == 1)
    return Property(words, lambda box: number.test(len(box)))


def share(rng: np.random.Generator) -> Property:
    """Some of a number of objects: "four items of which two are black"."""
    colour, total, noun = pick(rng, *COLOURS), int(rng.integers(2, MOST_SCATTERED)), pick(rng, "items", "objects")
    part = int(rng.integers(1, min(total, 3) + 1))
    least = chance(rng, 0.3)
    some = f"{'at least ' if least else ''}{numeral(rng, part)}"
    verb = "is" if part == 1 else "are"
    form = pick(rng, "of which {} {} {}", "and {} of them {} {}", "where {} of them {} {}")
    words = f"{numeral(rng, total)} {noun} {form.format(some, verb, colour)}"

    def holds(box: Box) -> bool:
        count = sum(item.colour == colour for item in box)
        return len(box) == total and compare(count, part, least)

    return Property(words, holds)


def only(rng: np.random.Generator) -> Property:
    """Nothing else: "only blue and black items", "only circles"."""
    if chance(rng, 0.3):
        shape = pick(rng, *SHAPES)
        return Property(f"{pick(rng, 'only', 'nothing but')} {shape}s", lambda box: all(i.shape == shape for i in box))
    return _only_colours(rng, "items", "objects")


def only_blocks(rng: np.random.Generator) -> Property:
    """Blocks of some colours and no others: "only yellow blocks"."""
    return _only_colours(rng, "blocks", "blocks")


def _only_colours(rng: np.random.Generator, *nouns: str) -> Property:
    colours = set(rng.permutation(COLOURS)[: 1 + int(chance(rng, 0.45))].tolist())
    told, noun = " and ".join(sorted(colours, reverse=chance(rng, 0.5))), pick(rng, *nouns)
    if chance(rng, 0.25):
        return Property(
            f"{noun} of only {told} colour", lambda box: len(box) > 1 and {item.colour for item in box} == colours
        )
    words = pick(rng, f"only {told} {noun}", f"only {told} {noun}", f"nothing but {told} {noun}")
    return Property(words, lambda box: {item.colour for item in box} == colours)


def colours(rng: np.random.Generator) -> Property:
    """A number of colours: "items of two different colours"."""
    return _colours(rng, "items", "objects")


def block_colours(rng: np.random.Generator) -> Property:
    """A number of colours of blocks: "blocks of one colour"."""
    return _colours(rng, "blocks", "blocks")


def _colours(rng: np.random.Generator, *nouns: str) -> Property:
    n, spelled, noun = int(rng.integers(1, 4)), pick(rng, "color", "color", "colour"), pick(rng, *nouns)
    if n == 1:
        least = 1 + int(chance(rng, 0.5))
        one = (f"only one {spelled}", f"a single {spelled}")
        several = (f"{noun} of the same {spelled}", f"{noun} of one {spelled} only")
        return Property(
            pick(rng, *(one if least == 1 else several)),
            lambda box: len(box) >= least and len({item.colour for item in box}) == 1,
            compares=True,
        )
    word = numeral(rng, n)
    words = pick(
        rng,
        f"{noun} of {word} different {spelled}s",
        f"{word} different {spelled}s",
        f"{noun} of {word} {spelled}s",
        f"{noun} in exactly {word} {spelled}s",
    )
    return Property(words, lambda box: len({item.colour for item in box}) == n, compares=True)


def same_form(rng: np.random.Generator) -> Property:
    """Objects alike: "items of the same size"."""
    noun = pick(rng, "items", "objects")
    shape = chance(rng, 0.5)

    def holds(box: Box) -> bool:
        return len(box) > 1 and len({item.shape if shape else item.pixels for item in box}) == 1

    return Property(f"{noun} of the same {'shape' if shape else 'size'}", holds, compares=True)


def placed(rng: np.random.Generator) -> Property:
    """A kind at a wall: "a black circle touching the wall"."""
    kind, place = draw_kind(rng), draw_place(rng)
    words = f"{kind.one} {pick(rng, 'touching', 'touching', 'closely touching', 'that touches')} {place.words}"
    return Property(words, lambda box: any(kind.matches(item) and place.touched(item) for item in box))


def topmost(rng: np.random.Generator) -> Property:
    """The highest or lowest object: "a blue item above all the others"."""
    kind, top = draw_kind(rng), chance(rng, 0.6)
    said = (
        ("as the highest", "above all the others", "on top")
        if top
        else ("as the lowest", "below all the others", "under the others")
    )

    def holds(box: Box) -> bool:
        return kind.matches(min(box, key=lambda item: _depths(item, top)))

    def decided(box: Box) -> bool:
        first, *others = sorted(_depths(item, top) for item in box)
        return bool(others) and all(f < o for other in others for f, o in zip(first, other, strict=True))

    return Property(f"{kind.one} {pick(rng, *said)}", holds, decided)


def _depths(item: Item, top: bool) -> tuple[float, int]:
    """Return how far an object's centre and its edge are from the upper wall, or from the lower one."""
    gap = item.gaps[UPPER if top else LOWER]
    return gap + item.pixels / 2, gap


def block_at(rng: np.random.Generator) -> Property:
    """The block at one level: "a yellow block at the base"."""
    kind, form = draw_block(rng), rng.random()
    if form < 0.38:
        words = pick(
            rng,
            "at the base",
            "at the base",
            "at base",
            "at the bottom",
            "as the base",
            "as its base",
            "on the lowest level",
        )
        return Property(f"{kind.one} {words}", lambda box: kind.matches(box[0]))
    if form < 0.76:
        words = pick(
            rng, "at the top", "at the top", "on top", "on the top", "as the top", "at its top", "as the highest block"
        )
        return Property(f"{kind.one} {words}", lambda box: kind.matches(box[-1]))
    if form < 0.88:
        level = int(rng.integers(1, MOST_BLOCKS))
        words = pick(
            rng,
            f"as the {LEVELS[level]} block from the base",
            f"at the {LEVELS[level]} place from the bottom",
        )
        return Property(f"{kind.one} {words}", lambda box: len(box) > level and kind.matches(box[level]))
    if form < 0.94:
        return Property(f"{kind.one} just below the top", lambda box: len(box) > 1 and kind.matches(box[-2]))
    return Property(f"{kind.one} in the middle", lambda box: len(box) == 3 and kind.matches(box[1]))


def ends(rng: np.random.Generator) -> Property:
    """Base and top together: "a blue base and a black top"."""
    base, top = draw_block(rng), draw_block(rng)
    if chance(rng, 0.3):
        words = pick(
            rng,
            "the same color at the base and at the top",
            "a base and a top of the same color",
            "the same color at top and bottom",
        )
        return Property(words, lambda box: len(box) > 1 and box[0].colour == box[-1].colour, compares=True)
    words = pick(
        rng,
        f"{base.one} at the base and {top.one} at the top",
        f"{top.one} at the top and {base.one} at the base",
        f"a {base.colour} base and a {top.colour} top",
    )
    return Property(words, lambda box: len(box) > 1 and base.matches(box[0]) and top.matches(box[-1]))


def run_at_end(rng: np.random.Generator) -> Property:
    """Several blocks of a colour at one end: "two black blocks at the base"."""
    kind, n, top, least = draw_block(rng), int(rng.integers(2, 4)), chance(rng, 0.45), chance(rng, 0.4)
    said = (
        pick(rng, "at the top", "on top", "as the top")
        if top
        else pick(rng, "at the base", "as the base", "at the bottom")
    )
    return Property(
        f"{'at least ' if least else ''}{numeral(rng, n)} {kind.nouns} {said}",
        lambda box: compare(length_at_end(box, kind, top), n, least),
    )


def length_at_end(box: Box, kind: Kind, top: bool) -> int:
    """Count the blocks of a kind that a tower ends with, before the first other one."""
    return len(list(takewhile(kind.matches, reversed(box) if top else box)))


def stacked(rng: np.random.Generator) -> Property:
    """One block on another: "a blue block above a black block"."""
    upper, lower = draw_block(rng), draw_block(rng)
    if chance(rng, 0.6):
        words = pick(rng, "above", "over", "on", "on top of", "right above", "directly on")
        return Property(f"{upper.one} {words} {lower.one}", lambda box: pairs(box, lower, upper))
    words = pick(rng, "below", "under", "beneath", "right below", "underneath")
    return Property(f"{lower.one} {words} {upper.one}", lambda box: pairs(box, lower, upper))


def together(rng: np.random.Generator) -> Property:
    """Neighbours of one colour: "two blue blocks stacked together"."""
    kind, n, least = draw_block(rng), int(rng.integers(2, 4)), chance(rng, 0.4)
    words = pick(
        rng, "stacked together", "attached to each other", "next to each other", "one above the other", "in a row"
    )

    def holds(box: Box) -> bool:
        runs = (len(list(run)) for matches, run in groupby(box, kind.matches) if matches)
        return any(compare(run, n, least) for run in runs)

    return Property(f"{'at least ' if least else ''}{numeral(rng, n)} {kind.nouns} {words}", holds)


def between(rng: np.random.Generator) -> Property:
    """A block between two others: "a yellow block between two black blocks"."""
    inner, outer = draw_block(rng), draw_block(rng)
    same = chance(rng, 0.4)
    words = f"{inner.one} {pick(rng, 'between', 'in between', 'in the middle of')} "
    words += "two blocks of the same color" if same else f"two {outer.nouns}"

    def fits(low: Item, middle: Item, high: Item) -> bool:
        return inner.matches(middle) and low.colour == high.colour and (same or outer.matches(low))

    return Property(words, lambda box: any(fits(*three) for three in zip(box, box[1:], box[2:], strict=False)))


def blocks(rng: np.random.Generator) -> Property:
    """A height: "exactly three blocks"."""
    number = draw_number(rng, MOST_BLOCKS)
    if number.words == "a":
        return Property(pick(rng, "a single block", "only one block", "just 1 block"), lambda box: len(box) == 1)
    return Property(f"{number.words} block{'s' if number.plural else ''}", lambda box: number.test(len(box)))


def coloured_blocks(rng: np.random.Generator) -> Property:
    """So many blocks of a colour: "at least two yellow blocks"."""
    kind, number = draw_block(rng), draw_number(rng, 3)
    return Property(kind.named(number), lambda box: number.test(kind.count(box)))


def height_and(rng: np.random.Generator) -> Property:
    """A height and what is at one level: "three blocks and a black block at the top"."""
    height, other = int(rng.integers(2, MOST_BLOCKS + 1)), block_at(rng)
    joined = pick(rng, "and", "with")
    return Property(
        f"{pick(rng, '', 'exactly ')}{NAMES[height] if chance(rng, 0.7) else height} blocks {joined} {other.words}",
        lambda box: len(box) == height and other.holds(box),
    )


def pairs(box: Box, lower: Kind, upper: Kind) -> bool:
    """Say whether a block of one kind lies right under one of another."""
    return any(lower.matches(low) and upper.matches(high) for low, high in zip(box, box[1:], strict=False))


PROPERTIES: dict[Layout, Sequence[tuple[float, Draw]]] = {
    "scattered": (
        (4, counted), (4, counted_kinds), (2, counted_all), (1.5, share), (2, only), (1.5, colours), (0.5, same_form),
        (2, placed), (1, topmost),
    ),
    "towers": (
        (5, block_at), (3, coloured_blocks), (2, blocks), (3, stacked), (1.5, only_blocks), (1.5, block_colours),
        (1, ends), (1, run_at_end), (1, together), (0.7, between), (1.5, height_and),
    ),
}  # fmt: skip
