"""Properties of a box with scattered objects: how many, of which kinds, where."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from datamodules.nlvr_world.phrases import Kind, chance, compare, draw_kind, draw_number, numeral, pick
from datamodules.nlvr_world.places import LOWER, UPPER, draw_place
from datamodules.nlvr_world.property import Property, number_of_colours, only_colours
from datamodules.nlvr_world.scenes import COLOURS, MOST_SCATTERED, SHAPES, Box, Item


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
    return only_colours(rng, "items", "objects")


def colours(rng: np.random.Generator) -> Property:
    """A number of colours: "items of two different colours"."""
    return number_of_colours(rng, "items", "objects")


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
