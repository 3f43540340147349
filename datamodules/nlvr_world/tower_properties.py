"""Properties of a tower: its blocks from base to top."""

from __future__ import annotations

from itertools import groupby, takewhile

import numpy as np

from datamodules.nlvr_world.phrases import NAMES, Kind, chance, compare, draw_block, draw_number, numeral, pick
from datamodules.nlvr_world.property import Property, number_of_colours, only_colours
from datamodules.nlvr_world.scenes import MOST_BLOCKS, Box, Item

LEVELS = ("first", "second", "third", "fourth")


def only_blocks(rng: np.random.Generator) -> Property:
    """Blocks of some colours and no others: "only yellow blocks"."""
    return only_colours(rng, "blocks", "blocks")


def block_colours(rng: np.random.Generator) -> Property:
    """A number of colours of blocks: "blocks of one colour"."""
    return number_of_colours(rng, "blocks", "blocks")


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
