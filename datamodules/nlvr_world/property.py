"""Properties of one box or tower, each a noun phrase that goes behind "with" and "has"."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from datamodules.nlvr_world.phrases import chance, numeral, pick
from datamodules.nlvr_world.scenes import COLOURS, Box


class Property(NamedTuple):
    """Words and meaning; ``about`` tells the boxes that decide it."""

    words: str
    holds: Callable[[Box], bool]
    about: Callable[[Box], bool] = lambda box: True
    compares: bool = False  # "all boxes have items of the same shape" may compare boxes, "each box has" does not


Draw: TypeAlias = Callable[[np.random.Generator], Property]


def only_colours(rng: np.random.Generator, *nouns: str) -> Property:
    """Objects of some colours and no others, by their nouns."""
    colours = set(rng.permutation(COLOURS)[: 1 + int(chance(rng, 0.45))].tolist())
    told, noun = " and ".join(sorted(colours, reverse=chance(rng, 0.5))), pick(rng, *nouns)
    if chance(rng, 0.25):
        return Property(
            f"{noun} of only {told} colour", lambda box: len(box) > 1 and {item.colour for item in box} == colours
        )
    words = pick(rng, f"only {told} {noun}", f"only {told} {noun}", f"nothing but {told} {noun}")
    return Property(words, lambda box: {item.colour for item in box} == colours)


def number_of_colours(rng: np.random.Generator, *nouns: str) -> Property:
    """A number of colours of objects, by their nouns."""
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
