"""Words of the grammar that have a meaning of their own: numbers, and kinds of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from datamodules.nlvr_world.scenes import COLOURS, SHAPES, SIZES, Item

Form = TypeVar("Form")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven")
FROM = ("at least {}", "{} or more", "no fewer than {}", "not less than {}")  # n or more
UP_TO = ("at most {}", "{} or fewer", "no more than {}", "not more than {}")
EXACT = ("exactly {}", "exactly {}", "only {}", "just {}", "precisely {}")
SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium", "medium sized"), "big": ("big", "large")}
NOUNS = ("item", "object", "item", "object", "thing", "shape")


class Number(NamedTuple):
    """A number in words, and which counts it is true of."""

    words: str
    plural: bool
    test: Callable[[int], bool]


class Kind(NamedTuple):
    """Objects by colour, shape and size; None is any."""

    colour: str | None
    shape: str | None
    size: str | None
    noun: str  # of one, such as "small black circle"

    @property
    def nouns(self) -> str:
        """Return the plural."""
        return f"{self.noun}s"

    @property
    def one(self) -> str:
        """Return the noun with its article."""
        return with_article(self.noun)

    def named(self, number: Number) -> str:
        """Return so many of them in words."""
        return self.one if number.words == "a" else f"{number.words} {self.nouns if number.plural else self.noun}"

    def matches(self, item: Item) -> bool:
        """Say whether an object is of this kind."""
        return (
            (self.colour is None or item.colour == self.colour)
            and (self.shape is None or item.shape == self.shape)
            and (self.size is None or item.pixels == SIZES[self.size])
        )

    def excludes(self, other: Kind) -> bool:
        """Say whether no object is of both kinds: they differ in a stated colour, shape or size."""
        stated = ((self.colour, other.colour), (self.shape, other.shape), (self.size, other.size))
        return any(mine and theirs and mine != theirs for mine, theirs in stated)

    def count(self, items: Sequence[Item]) -> int:
        """Count the objects of this kind."""
        return sum(map(self.matches, items))


def pick(rng: np.random.Generator, *choices: str) -> str:
    """Draw one of several texts."""
    return choices[int(rng.integers(len(choices)))]


def choose(rng: np.random.Generator, weighted: Sequence[tuple[float, Form]]) -> Form:
    """Draw by weight."""
    weights = np.cumsum([weight for weight, _ in weighted])
    return weighted[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))][1]


def chance(rng: np.random.Generator, share: float) -> bool:
    """Say yes to a share of the draws."""
    return bool(rng.random() < share)


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def numeral(rng: np.random.Generator, number: int) -> str:
    """Write a number as a digit or as a word."""
    return str(number) if chance(rng, 0.5) else NAMES[number]


def compare(count: int, wanted: int, least: bool) -> bool:
    """Compare a count with a number of the text: a bare number is exact, "at least" is not."""
    return count >= wanted if least else count == wanted


def draw_number(rng: np.random.Generator, most: int) -> Number:
    """Draw a number of 1 to ``most``; a bare one is exact, "a" is one or more."""
    form, n = rng.random(), int(rng.integers(1, most + 1))
    if form < 0.25:
        return Number("a", False, lambda count: count >= 1)
    word = numeral(rng, n)
    if form < 0.45:
        return Number(word, n > 1, lambda count: count == n)
    if form < 0.7:
        return Number(pick(rng, *EXACT).format(word), n > 1, lambda count: count == n)
    if form < 0.88:
        words = pick(rng, *FROM)
        return Number(words.format(word), n > 1 or words.startswith("{}"), lambda count: count >= n)
    if form < 0.94:
        words = pick(rng, *UP_TO)
        return Number(words.format(word), n > 1 or words.startswith("{}"), lambda count: count <= n)
    return Number(f"more than {word}", n > 1, lambda count: count > n)


def draw_kind(rng: np.random.Generator) -> Kind:
    """Draw a kind of scattered objects: mostly a colour, a shape or both."""
    form = rng.random()
    colour = pick(rng, *COLOURS) if form < 0.8 else None
    shape = pick(rng, *SHAPES) if 0.3 < form < 0.95 else None
    size = pick(rng, *SIZES) if chance(rng, 0.12) else None
    noun = shape or pick(rng, *NOUNS)
    words = [*([pick(rng, *SIZE_WORDS[size])] if size else []), *([colour] if colour else []), noun]
    return Kind(colour, shape, size, " ".join(words))


def draw_block(rng: np.random.Generator) -> Kind:
    """Draw a kind of blocks: a colour."""
    colour = pick(rng, *COLOURS)
    words = pick(rng, "block", "block", "block", "block", "coloured block", "square", "cube")
    return Kind(colour, None, None, f"{colour} {words}")
