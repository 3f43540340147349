"""VQA questions, whose answers are in the picture alone, and ten annotators of whom one in ten errs.

Given its text, each question of this world has uniformly distributed answers: every rule below treats the
possible answers alike, and a counting question is kept with a probability that evens its answers out.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from datamodules.toy.world import (
    COLOURS,
    OBJECT_COUNTS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    place,
    relations,
)

ANNOTATORS = 10
RELIABILITY = 0.9
QUESTIONS_PER_SCENE = 3
COUNTS = ("0", "1", "2", "3")
YES_NO = ("yes", "no")
KINDS = (COLOURS, SHAPES, SIZES, COUNTS, YES_NO)  # answers of one kind are plausible for the same question

AnswerType: TypeAlias = Literal["other", "number", "yes/no"]
Asked: TypeAlias = tuple[str, str] | None  # question and its true answer


@dataclass(frozen=True)
class Question:
    """A question with the answers of ten annotators; most of them say ``truth``."""

    text: str
    truth: str
    answers: tuple[str, ...]
    answer_type: AnswerType
    question_type: str


def questions(scene: Scene, rng: np.random.Generator, count: int = QUESTIONS_PER_SCENE) -> list[Question]:
    """Draw ``count`` questions of different families, of those that the scene has a clear question for."""
    names = list(_FAMILIES)
    weights = np.array([_FAMILIES[name][0] for name in names])
    order = rng.choice(len(names), len(names), replace=False, p=weights / weights.sum())
    asked = (_FAMILIES[names[i]][1](scene, rng) for i in order)
    return [_annotated(*pair, rng) for pair in itertools.islice(filter(None, asked), count)]


def plausible(answer: str) -> tuple[str, ...]:
    """Return all answers of the same kind, the answer included."""
    return next(kind for kind in KINDS if answer in kind)


def _annotated(text: str, truth: str, rng: np.random.Generator) -> Question:
    wrong = [answer for answer in plausible(truth) if answer != truth]
    answers: list[str] = []
    while answers.count(truth) <= ANNOTATORS // 2:
        errs = rng.random(ANNOTATORS) >= RELIABILITY
        answers = [str(rng.choice(wrong)) if err else truth for err in errs]
    answer_type: AnswerType = "other"
    if truth in COUNTS or truth in YES_NO:
        answer_type = "number" if truth in COUNTS else "yes/no"
    return Question(text, truth, tuple(answers), answer_type, " ".join(text.split()[:2]))


def _colour_by_place(scene: Scene, rng: np.random.Generator) -> Asked:
    item = scene.objects[rng.integers(len(scene.objects))]
    return f"what colour is the {SIZES[item.size]} {SHAPES[item.shape]} {place(item.cell)}", COLOURS[item.colour]


def _colour_by_kind(scene: Scene, rng: np.random.Generator) -> Asked:
    kinds = Counter((item.size, item.shape) for item in scene.objects)
    unique = [item for item in scene.objects if kinds[item.size, item.shape] == 1]
    if not unique:
        return None
    item = unique[rng.integers(len(unique))]
    return f"what colour is the {SIZES[item.size]} {SHAPES[item.shape]}", COLOURS[item.colour]


def _shape_by_place(scene: Scene, rng: np.random.Generator) -> Asked:
    item = scene.objects[rng.integers(len(scene.objects))]
    words = f"{SIZES[item.size]} {COLOURS[item.colour]} object {place(item.cell)}"
    return f"what shape is the {words}", SHAPES[item.shape]


def _size_by_place(scene: Scene, rng: np.random.Generator) -> Asked:
    item = scene.objects[rng.integers(len(scene.objects))]
    return f"what size is the {item.class_name} {place(item.cell)}", SIZES[item.size]


def _colour_by_relation(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for the only object on one side of the only object of a shape."""
    shapes = Counter(item.shape for item in scene.objects)
    found = [
        (relation, item, others[0])
        for item in scene.objects
        for relation in RELATIONS
        if shapes[item.shape] == 1
        and len(others := [o for o in scene.objects if o is not item and relation in relations(o, item)]) == 1
    ]
    if not found:
        return None
    relation, item, other = found[rng.integers(len(found))]
    return f"what colour is {relation} the {SHAPES[item.shape]}", COLOURS[other.colour]


def _presence(scene: Scene, rng: np.random.Generator) -> Asked:
    present = [item.class_name for item in scene.objects]
    if rng.random() < 0.5:
        return f"is there a {present[rng.integers(len(present))]}", "yes"
    while (name := f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}") in present:
        pass
    return f"is there a {name}", "no"


def _count(scene: Scene, rng: np.random.Generator) -> Asked:
    """Ask for a count drawn uniformly; a count that few scenes have sets the pace for the others."""
    words, values = (
        (COLOURS, [item.colour for item in scene.objects]),
        (SIZES, [item.size for item in scene.objects]),
    )[rng.integers(2)]
    target = int(rng.integers(len(COUNTS)))
    fitting = [word for value, word in enumerate(words) if values.count(value) == target]
    shares = count_shares(len(words))
    if rng.random() >= min(shares) / shares[target] or not fitting:
        return None
    return f"how many {fitting[rng.integers(len(fitting))]} objects", COUNTS[target]


@functools.cache
def count_shares(kinds: int) -> tuple[float, ...]:
    """Return the shares of scenes in which one of ``kinds`` values has exactly 0, 1, 2, 3 objects."""
    shares = np.zeros(len(COUNTS))
    for objects in OBJECT_COUNTS:
        for values in itertools.product(range(kinds), repeat=objects):
            counts = np.bincount(values, minlength=kinds)
            shares[[target in counts for target in range(len(COUNTS))]] += 1 / kinds**objects
    return tuple(shares / len(OBJECT_COUNTS))


_FAMILIES: dict[str, tuple[float, Callable[[Scene, np.random.Generator], Asked]]] = {
    "colour by place": (0.24, _colour_by_place),
    "colour by kind": (0.20, _colour_by_kind),
    "shape by place": (0.18, _shape_by_place),
    "size by place": (0.12, _size_by_place),
    "colour by relation": (0.06, _colour_by_relation),
    "presence": (0.12, _presence),
    "count": (0.20, _count),
}
