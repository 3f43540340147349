"""Statements about scenes: quantifiers over boxes and objects, put around the properties of one box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from datamodules.nlvr_world.phrases import (
    Number,
    chance,
    choose,
    compare,
    draw_block,
    draw_kind,
    draw_number,
    numeral,
    pick,
)
from datamodules.nlvr_world.places import draw_place, touching
from datamodules.nlvr_world.properties import draw_property
from datamodules.nlvr_world.property import Property
from datamodules.nlvr_world.scenes import BOXES, COLOURS, MOST_BLOCKS, Layout, Scene, items_of
from datamodules.nlvr_world.tower_properties import length_at_end


class Statement(NamedTuple):
    """A sentence, and what it says of a scene; ``about`` tells the scenes that it can be said of."""

    text: str
    holds: Callable[[Scene], bool]
    about: Callable[[Scene], bool] = lambda scene: True


DrawStatement: TypeAlias = Callable[[np.random.Generator], Statement]
Forms: TypeAlias = dict[Layout, Sequence[tuple[float, DrawStatement]]]  # each with its weight
BOX_NOUNS = ("box", "box", "box", "grey box", "grey square")
HAS, HAVE = ("has", "has", "contains", "holds"), ("have", "have", "contain", "hold")


def draw_statement(layout: Layout, rng: np.random.Generator, easy: bool = False) -> Statement:
    """Draw a statement for scenes of a layout, an easy one or any; a capital and a full stop come by chance."""
    statement = choose(rng, (EASY if easy else FORMS)[layout])(rng)
    text = statement.text
    if chance(rng, 0.7):
        text = text[0].upper() + text[1:]
    return statement._replace(text=f"{text}." if chance(rng, 0.5) else text)


def quantified(rng: np.random.Generator, noun: str, plural: str, prop: Property) -> Statement:
    """Say of how many boxes a property holds, in scenes whose boxes all decide it."""
    text, holds = _quantifier(rng, noun, plural, prop)
    return Statement(text, holds, lambda scene: all(map(prop.about, scene)))


def _quantifier(
    rng: np.random.Generator, noun: str, plural: str, prop: Property
) -> tuple[str, Callable[[Scene], bool]]:
    form = rng.random()
    joint = pick(rng, "with", "with", "that has", "which has", "containing", "having")
    if form < 0.5:
        return _some(rng, noun, joint, prop.words), lambda scene: any(map(prop.holds, scene))
    if form < 0.8:
        n = 1 if prop.compares else int(rng.integers(1, 3))
        word = numeral(rng, n)
        least = chance(rng, 0.3)
        told = pick(rng, f"at least {word}") if least else pick(rng, word, word, f"exactly {word}", f"only {word}")
        nouns, be, verb = (noun, "is", pick(rng, *HAS)) if n == 1 else (plural, "are", pick(rng, *HAVE))
        behind = joint if n == 1 else pick(rng, "with", "with", "that have", "which have", "containing")
        text = pick(
            rng,
            f"there {be} {told} {nouns} {behind} {prop.words}",
            f"there {be} {told} {nouns} {behind} {prop.words}",
            f"{told} {nouns} {verb} {prop.words}",
            f"{told} of the {pick(rng, '', 'three ')}{plural} {verb} {prop.words}",
        )
        return text, lambda scene: compare(sum(map(prop.holds, scene)), n, least)
    if form < 0.92:
        each = (
            f"each {noun} {pick(rng, *HAS)} {prop.words}",
            f"every {noun} {pick(rng, *HAS)} {prop.words}",
            f"there {'are' if chance(rng, 0.2) else 'is'} {prop.words} in {pick(rng, 'each', 'every')} {noun}",
        )
        together = f"all {pick(rng, 'the', 'three', '3')} {plural} {pick(rng, *HAVE)} {prop.words}"
        text = pick(rng, *each, *(() if prop.compares else (together,)))
        return text, lambda scene: all(map(prop.holds, scene))
    no = (f"there is no {noun} {joint} {prop.words}", f"no {noun} {pick(rng, *HAS)} {prop.words}")
    none = f"none of the {plural} {pick(rng, *HAVE)} {prop.words}"
    text = pick(rng, *no, *(() if prop.compares else (none,)))
    return text, lambda scene: not any(map(prop.holds, scene))


def _some(rng: np.random.Generator, noun: str, joint: str, words: str) -> str:
    amount = pick(rng, "a", "a", "a", "at least one", "at least 1")
    there = f"there is {amount} {noun} {joint} {words}"
    return pick(
        rng,
        there,
        there,
        there,
        f"at least one {noun} {pick(rng, *HAS)} {words}",
        f"some {noun} {pick(rng, *HAS)} {words}",
        f"there is {words} in {pick(rng, 'a', 'some')} {noun}",
    )


def about_boxes(rng: np.random.Generator) -> Statement:
    """Boxes with a property."""
    noun = pick(rng, *BOX_NOUNS)
    return quantified(rng, noun, f"{noun}{'es' if noun[-1] == 'x' else 's'}", draw_property("scattered", rng))


def about_towers(rng: np.random.Generator) -> Statement:
    """Towers with a property."""
    noun = "stack" if chance(rng, 0.2) else "tower"
    return quantified(rng, noun, f"{noun}s", draw_property("towers", rng))


def of_height(rng: np.random.Generator) -> Statement:
    """What the tower of a height is like: "the tower with four blocks has a black block at the top"."""
    height, prop = int(rng.integers(1, MOST_BLOCKS + 1)), draw_property("towers", rng)
    word, s = numeral(rng, height), "" if height == 1 else "s"
    tower = pick(
        rng,
        f"tower with {word} block{s}",
        f"tower with exactly {word} block{s}",
        f"{word} block{s} tower",
        f"tower of {word} block{s}",
    )
    the = chance(rng, 0.5)
    text = (
        f"the {tower} {pick(rng, *HAS)} {prop.words}"
        if the
        else f"there is a {tower} {pick(rng, 'with', 'that has', 'having')} {prop.words}"
    )
    return Statement(
        text,
        lambda scene: any(len(box) == height and prop.holds(box) for box in scene),
        lambda scene: compare(sum(len(box) == height for box in scene), 1, least=not the),
    )


def base_of(rng: np.random.Generator) -> Statement:
    """Blocks as the end of a tower: "there is a blue block as the base of a tower with two blocks"."""
    kind, top, least = draw_block(rng), chance(rng, 0.4), chance(rng, 0.4)
    height = int(rng.integers(2, MOST_BLOCKS + 1)) if chance(rng, 0.5) else None
    end = (
        pick(rng, "as the top of", "at the top of", "on top of")
        if top
        else pick(rng, "as the base of", "at the base of", "at the bottom of")
    )
    n = int(rng.integers(1, 4)) if chance(rng, 0.4) else 1
    or_more = n == 1 or chance(rng, 0.4)
    many = kind.one if n == 1 else f"{'at least ' if or_more else ''}{numeral(rng, n)} {kind.nouns}"
    behind = (
        ""
        if height is None
        else f" with {'at least ' if least else pick(rng, '', 'exactly ')}{numeral(rng, height)} blocks"
    )
    text = f"there {'is' if n == 1 else 'are'} {many} {end} a tower{behind}"

    def holds(scene: Scene) -> bool:
        fitting = [box for box in scene if height is None or compare(len(box), height, least)]
        return any(compare(length_at_end(box, kind, top), n, or_more) for box in fitting)

    return Statement(text, holds)


def ends_of_all(rng: np.random.Generator) -> Statement:
    """Bases or tops compared: "the bases of all towers are of the same color"."""
    top, n, spelled = chance(rng, 0.5), int(rng.integers(2, 4)), pick(rng, "color", "color", "colour")
    end = "top" if top else "base"
    colour = pick(rng, *COLOURS) if chance(rng, 0.5) else None
    said = f"{colour}" if colour else pick(rng, f"of the same {spelled}", f"the same in {spelled}")
    all_of = (
        f"the {end}s of all the towers are {said}",
        f"all three {end}s are {said}",
        f"the {end} blocks of the three towers are {said}",
    )
    two_of = (
        f"two of the three towers have {f'a {colour} {end}' if colour else f'the same {end} {spelled}'}",
        f"there are exactly two towers with {f'a {colour} {end}' if colour else f'the same {spelled} at the {end}'}",
    )

    def holds(scene: Scene) -> bool:
        seen = [box[-1 if top else 0].colour for box in scene]
        return n in ([seen.count(colour)] if colour else [seen.count(one) for one in COLOURS])

    return Statement(pick(rng, *(all_of if n == BOXES else two_of)), holds)


def tower_of_colour(rng: np.random.Generator) -> Statement:
    """Towers of one colour: "there is a blue tower with one block"."""
    colour, height = pick(rng, *COLOURS), int(rng.integers(1, 4)) if chance(rng, 0.5) else None
    blocks = (
        ""
        if height is None
        else f" with {pick(rng, '', 'only ', 'exactly ')}{numeral(rng, height)} block{'s' if height > 1 else ''}"
    )
    tower = pick(
        rng,
        f"a {colour} tower",
        f"a tower that is all {colour}",
        f"a completely {colour} tower",
        f"at least one {colour} tower",
    )
    return Statement(
        f"there is {tower}{blocks}",
        lambda scene: any(
            all(item.colour == colour for item in box) and (height is None or len(box) == height) for box in scene
        ),
    )


def same_number(rng: np.random.Generator) -> Statement:
    """Boxes with equally many objects."""
    return _same_number(rng, "boxes", "items", "objects")


def same_height(rng: np.random.Generator) -> Statement:
    """Towers of the same height."""
    return _same_number(rng, "towers", "blocks", "blocks")


def _same_number(rng: np.random.Generator, plural: str, *nouns: str) -> Statement:
    noun = pick(rng, *nouns)
    if chance(rng, 0.3):
        text = pick(
            rng,
            f"all {plural} have a different number of {noun}",
            f"each of the {plural} has a different number of {noun}",
        )
        return Statement(text, lambda scene: len(set(map(len, scene))) == len(scene))
    text = pick(
        rng,
        f"there are two {plural} with the same number of {noun}",
        f"two of the {plural} have equally many {noun}",
        f"two {plural} have the same number of {noun}",
    )
    return Statement(text, lambda scene: len(set(map(len, scene))) == BOXES - 1)


def exists(rng: np.random.Generator) -> Statement:
    """Some object of a kind: "there is a black circle"."""
    kind = draw_kind(rng)
    return Statement(
        f"there is {kind.one}{pick(rng, '', '', ' in a box')}", lambda scene: any(map(kind.matches, items_of(scene)))
    )


def block_exists(rng: np.random.Generator) -> Statement:
    """Some block of a colour: "there is a blue block"."""
    kind = draw_block(rng)
    return Statement(
        f"there is {kind.one}{pick(rng, '', '', ' in a tower')}", lambda scene: any(map(kind.matches, items_of(scene)))
    )


def total(rng: np.random.Generator) -> Statement:
    """So many objects in all boxes: "there are exactly two blue squares"."""
    kind, number = draw_kind(rng), draw_number(rng, 5)
    return Statement(
        f"{_there(number, kind.named(number))}{pick(rng, '', '', '', ' altogether', ' in the picture')}",
        lambda scene: number.test(sum(map(kind.count, scene))),
    )


def total_blocks(rng: np.random.Generator) -> Statement:
    """So many blocks in all towers: "there are four black blocks"."""
    kind, number = draw_block(rng), draw_number(rng, 5)
    return Statement(
        f"{_there(number, kind.named(number))}{pick(rng, '', '', ' in all towers together')}",
        lambda scene: number.test(sum(map(kind.count, scene))),
    )


def _there(number: Number, words: str) -> str:
    return f"there {'are' if number.plural else 'is'} {words}"


def at_walls(rng: np.random.Generator) -> Statement:
    """So many objects that touch a wall, or do not."""
    if chance(rng, 0.1):
        return _at_no_wall(rng)
    away = chance(rng, 0.2)
    kind, place, number = draw_kind(rng), draw_place(rng, away), draw_number(rng, 3)
    verb = (
        pick(rng, "not touching", "which are not touching" if number.plural else "which is not touching")
        if away
        else touching(rng)
    )
    return Statement(
        f"{_there(number, kind.named(number))} {verb} {place.words}",
        lambda scene: number.test(sum(kind.matches(i) and place.touched(i) != away for i in items_of(scene))),
    )


def _at_no_wall(rng: np.random.Generator) -> Statement:
    kind, place = draw_kind(rng), draw_place(rng)

    def holds(scene: Scene) -> bool:
        return not any(kind.matches(item) and place.touched(item) for item in items_of(scene))

    if chance(rng, 0.33):  # "the blue circles" takes for granted that there are some
        return Statement(
            f"none of the {kind.nouns} are touching {place.words}",
            holds,
            lambda scene: any(map(kind.matches, items_of(scene))),
        )
    touches = pick(rng, f"no {kind.noun} is touching", f"there is no {kind.noun} touching")
    return Statement(f"{touches} {place.words}", holds)


def block_on_block(rng: np.random.Generator) -> Statement:
    """How often one block lies on another: "there is exactly one yellow block on a black block"."""
    upper, lower, n = draw_block(rng), draw_block(rng), int(chance(rng, 2 / 3))
    over = chance(rng, 0.65)
    words = pick(rng, "above", "over", "on", "on top of") if over else pick(rng, "below", "under", "beneath")
    first, second = (upper, lower) if over else (lower, upper)
    least, word = n == 1 and chance(rng, 0.7), numeral(rng, n)
    amount = f"no {first.noun}" if n == 0 else first.one if least else f"{pick(rng, 'exactly ', '')}{word} {first.noun}"

    def holds(scene: Scene) -> bool:
        found = sum(
            lower.matches(low) and upper.matches(high) for box in scene for low, high in zip(box, box[1:], strict=False)
        )
        return compare(found, n, least)

    return Statement(f"there is {amount} {words} {second.one}", holds)


def more_than(rng: np.random.Generator) -> Statement:
    """Two kinds compared: "there are more blue circles than squares"."""
    one, other = draw_kind(rng), draw_kind(rng)
    return Statement(
        f"there are more {one.nouns} than {other.nouns}",
        lambda scene: sum(map(one.count, scene)) > sum(map(other.count, scene)),
    )


# What is easy is learned within some hundred steps. Without it the others stay at chance for thousands.
EASY: Forms = {
    "scattered": ((2, exists), (1, total)),
    "towers": ((2, block_exists), (1, total_blocks)),
}
FORMS: Forms = {
    "scattered": (
        (1.5, exists), (1.5, total), (6, about_boxes), (3, at_walls), (0.3, same_number), (0.2, more_than),
    ),
    "towers": (
        (1, block_exists), (1.5, total_blocks), (6, about_towers), (2, base_of), (1, of_height), (0.7, ends_of_all),
        (0.7, tower_of_colour), (0.3, same_height), (1.5, block_on_block),
    ),
}  # fmt: skip
