"""VCR-like questions: tagged objects, four answers and four rationales, of each of which exactly one is true.

Wrong choices are values of other objects of the scene where there are such, so that knowing what the picture
shows somewhere is not enough. The rule treats all values alike, and a scene with its values renamed is as
likely as before: a reader of the text alone is right exactly one time in four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from datamodules.toy.world import CELLS, COLOURS, RELATIONS, SIZES, Scene, place, relations

CHOICES = 4
ITEMS_PER_SCENE = 2
FAMILIES = {"colour": 0.25, "size": 0.25, "place": 0.25, "relation": 0.25}  # relation: of aligned objects
# drawn for train: colours and places are learned from hundreds of questions, relations from ten thousand
FAMILIES_OF_TRAIN = {"colour": 0.12, "size": 0.26, "place": 0.12, "relation": 0.5}

Tokens: TypeAlias = list[str | list[int]]  # a list of numbers is a tag: the objects that are meant


@dataclass(frozen=True)
class VCRItem:
    """A question about the tagged objects of a scene; tags are numbers in ``scene.objects``."""

    family: str
    question: Tokens
    answer_choices: list[Tokens]
    answer_label: int
    rationale_choices: list[Tokens]
    rationale_label: int


def vcr_items(
    scene: Scene,
    rng: np.random.Generator,
    families: Mapping[str, float] = FAMILIES,
    count: int = ITEMS_PER_SCENE,
) -> list[VCRItem]:
    """Draw questions about ``count`` different objects of the scene.

    Args:
        scene: of two or more objects.
        rng: source of randomness.
        families: share of each family; where no object is aligned, colour takes the place of relation.
        count: number of questions.
    """
    numbers = rng.permutation(len(scene.objects))[:count]
    return [_item(scene, int(number), families, rng) for number in numbers]


def _item(scene: Scene, number: int, families: Mapping[str, float], rng: np.random.Generator) -> VCRItem:
    family = str(rng.choice(list(families), p=list(families.values())))
    others = [i for i in range(len(scene.objects)) if i != number]
    partners = [i for i in others if aligned(scene, number, i)]
    if family == "relation" and partners:
        return _relation_item(scene, number, int(rng.choice(partners)), rng)
    if family == "place":
        question, answers = ["where", "is"], place_choices(scene, number, rng)
        told, rationales = number, size_colour_choices(scene, number, rng)
    else:
        told = int(rng.choice(others))
        rationales = neighbour_colour_choices(scene, told, rng)
        if family == "size":
            question, answers = ["what", "size", "and", "colour", "is"], size_colour_grid(scene, number, rng)
        else:
            family, question, answers = "colour", ["what", "colour", "is"], colour_choices(scene, number, rng)
    return VCRItem(
        family,
        [*question, [number], "?"],
        [[[number], "is", *words.split()] for words in answers[0]],
        answers[1],
        [[[told], "is", *words.split()] for words in rationales[0]],
        rationales[1],
    )


def _relation_item(scene: Scene, number: int, partner: int, rng: np.random.Generator) -> VCRItem:
    (truth,) = relations(scene.objects[number], scene.objects[partner])
    order = [RELATIONS[i] for i in rng.permutation(CHOICES)]
    rationales, rationale_label = size_colour_choices(scene, number, rng)
    return VCRItem(
        "relation",
        ["where", "is", [number], "from", [partner], "?"],
        [[[number], "is", *words.split(), [partner]] for words in order],
        order.index(truth),
        [[[number], "is", *words.split()] for words in rationales],
        rationale_label,
    )


def aligned(scene: Scene, one: int, other: int) -> bool:
    """Say whether exactly one relation holds between two objects: they differ and share a row or a column."""
    return one != other and len(relations(scene.objects[one], scene.objects[other])) == 1


def colour_choices(scene: Scene, number: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Draw four colours, one of them the object's; returns the words and the place of the right one."""
    values, label = four_values([item.colour for item in scene.objects], number, len(COLOURS), rng)
    return [COLOURS[value] for value in values], label


def neighbour_colour_choices(scene: Scene, number: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Draw four colours, one of them the object's, the others at random.

    The object is not the one that the question is about: its answer has told that one's colour, and
    a preference for the colours of the scene would betray that this one is less likely the right one.
    """
    values, label = four_values([scene.objects[number].colour], 0, len(COLOURS), rng)
    return [COLOURS[value] for value in values], label


def place_choices(scene: Scene, number: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Draw four places, one of them the object's."""
    values, label = four_values([item.cell for item in scene.objects], number, CELLS, rng)
    return [place(value) for value in values], label


def size_colour_grid(scene: Scene, number: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Combine the object's size and another with its colour and another: one has to know both."""
    size = scene.objects[number].size
    sizes = (size, _other_size(size, rng))
    colours, label = four_values([item.colour for item in scene.objects], number, len(COLOURS), rng)
    pair = (colours[label], colours[label - 1])
    order = rng.permutation(CHOICES)
    words = [f"{SIZES[sizes[i // 2]]} {COLOURS[pair[i % 2]]}" for i in order]
    return words, int(np.flatnonzero(order == 0)[0])


def size_colour_choices(scene: Scene, number: int, rng: np.random.Generator) -> tuple[list[str], int]:
    """Draw four colours, two of them with the object's size, two with another one."""
    colours, label = colour_choices(scene, number, rng)
    sizes = _sizes(scene, number, label, rng)
    return [f"{size} {colour}" for size, colour in zip(sizes, colours, strict=True)], label


def four_values(values: Sequence[int], number: int, kinds: int, rng: np.random.Generator) -> tuple[list[int], int]:
    """Draw the object's value and three others, values of other objects first, in random order."""
    truth = values[number]
    others = rng.permutation([value for value in range(kinds) if value != truth]).tolist()
    wrong = sorted(others, key=lambda value: value not in values)  # stable: random within each part
    chosen = [truth, *wrong[: CHOICES - 1]]
    order = rng.permutation(CHOICES)
    return [chosen[i] for i in order], int(np.flatnonzero(order == 0)[0])


def _sizes(scene: Scene, number: int, label: int, rng: np.random.Generator) -> list[str]:
    """Draw a size a choice: the right one at ``label`` and one other place, another size at the rest."""
    size = scene.objects[number].size
    other = _other_size(size, rng)
    companion = int((label + rng.integers(1, CHOICES)) % CHOICES)
    return [SIZES[size if i in (label, companion) else other] for i in range(CHOICES)]


def _other_size(size: int, rng: np.random.Generator) -> int:
    return int((size + rng.integers(1, len(SIZES))) % len(SIZES))
