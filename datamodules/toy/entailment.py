"""SNLI-VE-like hypotheses about a picture of which one cell is covered.

Each picture has three: what an uncovered object is (entailment), what it is not, as it has another colour
(contradiction), and what may be under the cover (neutral). In each class size, colour, shape and place are uniform
and independent: a wrong colour is any other one equally likely, and the covered cell is any. So the text alone
tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from datamodules.toy.phrases import KINDS_OF_WORDS, Phrase, attributes_of
from datamodules.toy.world import CELLS, COLOURS, Scene, SceneObject

Label: TypeAlias = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = get_args(Label)


class Hypothesis(NamedTuple):
    """A full phrase with its place, and what the picture says of it."""

    text: str
    label: Label


@dataclass(frozen=True)
class CoveredScene:
    """A scene of which one cell cannot be seen; there may be an object in it."""

    scene: Scene
    cover: int  # the cell
    hypotheses: tuple[Hypothesis, ...]  # one a class, in random order


def cover_scene(scene: Scene, rng: np.random.Generator) -> CoveredScene:
    """Draw the covered cell and the hypotheses."""
    cover = int(rng.integers(CELLS))
    seen = [item for item in scene.objects if item.cell != cover]
    phrases: dict[Label, Phrase] = {
        "entailment": _full(_one_of(seen, rng)),
        "neutral": Phrase(_any_attributes(rng), cover),
        "contradiction": _wrong(_one_of(seen, rng), rng),
    }
    order = [LABELS[i] for i in rng.permutation(len(LABELS))]
    return CoveredScene(scene, cover, tuple(Hypothesis(phrases[label].text, label) for label in order))


def _one_of(seen: list[SceneObject], rng: np.random.Generator) -> SceneObject:
    return seen[rng.integers(len(seen))]


def _full(item: SceneObject) -> Phrase:
    return Phrase(attributes_of(item), item.cell)


def _any_attributes(rng: np.random.Generator) -> tuple[int, int, int]:
    size, colour, shape = (int(rng.integers(len(words))) for words in KINDS_OF_WORDS)
    return size, colour, shape


def _wrong(item: SceneObject, rng: np.random.Generator) -> Phrase:
    """Draw another colour for the object, and any size and shape."""
    size, colour, shape = _any_attributes(rng)
    if colour == item.colour:
        colour = int((colour + rng.integers(1, len(COLOURS))) % len(COLOURS))
    return Phrase((size, colour, shape), item.cell)
