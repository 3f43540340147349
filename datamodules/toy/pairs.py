"""NLVR2-like statements: is a phrase true of the left, or of the right of two pictures?

A block is four pairs of scenes and two statements about them, "left red circle" and "right red circle", of
each of which two pairs are true and two false: that is the structure of NLVR2 (arXiv 1811.00491), and it keeps
a reader of the statement alone at one in two. What a block's pictures hold is one of two patterns:

    left only, left only, right only, right only    a false statement is always true of the other side
    both, left only, right only, neither            one of two false statements is

so that a reader who cannot tell the sides is right five times in eight at best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.toy.phrases import Phrase, draw_phrase, scene_table
from datamodules.toy.world import Scene

SIDES = ("left", "right")
PATTERNS = (  # whether the phrase is true of the left and of the right scene of each pair
    ((True, False), (True, False), (False, True), (False, True)),
    ((True, True), (True, False), (False, True), (False, False)),
)
PLACED = 0.5  # share of phrases that tell the place
TRIES = 10_000
PAIRS = len(PATTERNS[0])


class Pair(NamedTuple):
    """Two scenes, by their numbers in the split's pool, and of which of them the block's phrase is true."""

    scenes: tuple[int, int]
    holds: tuple[bool, bool]


class PairStatement(NamedTuple):
    """A statement about each pair of its block."""

    text: str
    labels: tuple[bool, ...]  # one a pair


@dataclass(frozen=True)
class Block:
    """A phrase and four pairs of scenes."""

    phrase: Phrase
    pairs: tuple[Pair, ...]

    def statements(self) -> tuple[PairStatement, ...]:
        """Return the block's statements, one a side."""
        return tuple(
            PairStatement(f"{name} {self.phrase.text}", tuple(pair.holds[side] for pair in self.pairs))
            for side, name in enumerate(SIDES)
        )


def draw_blocks(pool: Sequence[Scene], streams: Sequence[np.random.Generator]) -> Iterator[Block]:
    """Draw a block from each random stream.

    Args:
        pool: The scenes that pairs are made of; a block repeats one only if it has too few.
        streams: One a block.

    Raises:
        ValueError: No phrase tells the scenes of the pool apart.
    """
    table = scene_table(pool)
    for rng in streams:
        for _ in range(TRIES):
            scene = pool[int(rng.integers(len(pool)))]
            phrase = draw_phrase(scene.objects[rng.integers(len(scene.objects))], rng, PLACED)
            held = phrase.holds(table)
            if not held.all():
                break
        else:
            raise ValueError(f"the {len(pool)} scenes of the world show the same; draw more of them or change the seed")
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        chosen = {truth: iter(_some(np.flatnonzero(held == truth), rng)) for truth in (True, False)}
        pairs = [Pair((next(chosen[left]), next(chosen[right])), (left, right)) for left, right in pattern]
        yield Block(phrase, tuple(pairs[i] for i in rng.permutation(PAIRS)))


def _some(numbers: NDArray[np.int_], rng: np.random.Generator) -> list[int]:
    """Draw as many scenes as a pattern has of each truth: four."""
    return [int(n) for n in rng.choice(numbers, PAIRS, replace=len(numbers) < PAIRS)]
