"""SNLI-VE-like hypotheses about pictures of which half have one cell covered.

A hypothesis names a kind of object. It is entailed where such an object is seen. Where none is, a picture without a
cover contradicts it, and one with a cover leaves it open: it may be under there. In each class size, colour and
shape are uniform and independent, so the text alone tells nothing; the cover alone tells one class out of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from datamodules.toy.phrases import KINDS_OF_WORDS, Attributes, Phrase, attributes_of
from datamodules.toy.world import CELLS, Scene

Label: TypeAlias = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = get_args(Label)
UNSEEN = 2  # hypotheses of a picture about what is not seen, beside one about what is


class Hypothesis(NamedTuple):
    """The size, colour and shape of an object, and what the picture says of it."""

    text: str
    label: Label


@dataclass(frozen=True)
class CoveredScene:
    """A scene of which perhaps one cell cannot be seen; there may be an object in it."""

    scene: Scene
    cover: int | None  # the cell
    hypotheses: tuple[Hypothesis, ...]  # in random order


def cover_scene(scene: Scene, rng: np.random.Generator) -> CoveredScene:
    """Draw the covered cell, if any, and the hypotheses."""
    cover = int(rng.integers(CELLS)) if rng.random() < 0.5 else None
    seen = [attributes_of(item) for item in scene.objects if item.cell != cover]
    said: list[tuple[Attributes, Label]] = [(seen[rng.integers(len(seen))], "entailment")]
    said += [(_unseen(seen, rng), "contradiction" if cover is None else "neutral") for _ in range(UNSEEN)]
    hypotheses = [Hypothesis(Phrase(attributes, None).text, label) for attributes, label in said]
    return CoveredScene(scene, cover, tuple(hypotheses[i] for i in rng.permutation(len(hypotheses))))


def _unseen(seen: list[Attributes], rng: np.random.Generator) -> Attributes:
    """Draw a kind of object that is none of those seen, each equally likely."""
    while True:
        size, colour, shape = (int(rng.integers(len(words))) for words in KINDS_OF_WORDS)
        if (size, colour, shape) not in seen:
            return size, colour, shape
