"""Scenes written down by hand, and readers of the toy sentences that share no code with their writers."""

from __future__ import annotations

import re
from collections.abc import Callable

from datamodules.toy.world import COLOURS, COLUMNS, ROWS, SHAPES, SIZE_PIXELS, SIZES, Scene, SceneObject

RELATED: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left of": lambda one, other: one.column < other.column,
    "right of": lambda one, other: one.column > other.column,
    "above": lambda one, other: one.row < other.row,
    "below": lambda one, other: one.row > other.row,
}


def make_object(words: str) -> SceneObject:
    """Make an object from "small red circle top left", in the corner of its cell."""
    size, colour, shape, row, column = words.split()
    cell = ROWS.index(row) * 3 + COLUMNS.index(column)
    x, y = COLUMNS.index(column) * 16, ROWS.index(row) * 16
    return SceneObject(cell, COLOURS.index(colour), SHAPES.index(shape), SIZES.index(size), x, y)


def make_scene(*objects: str) -> Scene:
    """Make a scene from one description an object."""
    return Scene(tuple(make_object(words) for words in objects))


def words_of(item: SceneObject) -> set[str]:
    """Return every word that is true of an object; SIZE_PIXELS is read from its box."""
    width = item.box[2] - item.box[0]
    words = {SIZES[SIZE_PIXELS.index(width)], COLOURS[item.colour], SHAPES[item.shape]}
    return words | {ROWS[item.box[1] // 16], COLUMNS[item.box[0] // 16]}


def answers(scene: Scene, question: str) -> set[str]:
    """Return all true answers to a VQA question; exactly one if it is clear."""
    patterns: dict[str, Callable[..., set[str]]] = {
        r"what (colour|size) is the (\w+) (\w+) (\w+) (\w+)": lambda *words: having(*words),
        r"what (colour) is the (\w+) (\w+)": lambda *words: having(*words),
        r"what (shape) is the (\w+) (\w+) object (\w+) (\w+)": lambda *words: having(*words),
        r"what (colour) is (left of|right of|above|below) the (\w+)": lambda kind, relation, shape: {
            attribute(other, kind)
            for item in scene.objects
            for other in scene.objects
            if SHAPES[item.shape] == shape and other is not item and RELATED[relation](other, item)
        },
        r"is there a (\w+ \w+)": lambda name: {"yes" if having("name", *name.split()) else "no"},
        r"how many (\w+) objects": lambda word: {str(sum(word in words_of(item) for item in scene.objects))},
    }

    def having(kind: str, *words: str) -> set[str]:
        return {attribute(item, kind) for item in scene.objects if set(words) <= words_of(item)}

    found = [(reader, match) for pattern, reader in patterns.items() if (match := re.fullmatch(pattern, question))]
    assert len(found) == 1, question
    reader, match = found[0]
    return reader(*match.groups())


def attribute(item: SceneObject, kind: str) -> str:
    """Return the word of one kind for an object."""
    words = {"colour": COLOURS[item.colour], "shape": SHAPES[item.shape], "size": SIZES[item.size]}
    return {**words, "name": item.class_name}[kind]


def holds(scene: Scene, statement: list[str | list[int]]) -> bool:
    """Say whether a VCR statement is true: "[0] is small red" or "[0] is left of [1]"."""
    first, verb, *rest = statement
    assert isinstance(first, list)
    assert verb == "is"
    item = scene.objects[first[0]]
    if isinstance(rest[-1], list):
        relation = " ".join(str(word) for word in rest[:-1])
        return RELATED[relation](item, scene.objects[rest[-1][0]])
    return set(rest) <= words_of(item)


def fits(scene: Scene, phrase: str) -> bool:
    """Say whether some object is all that a phrase says; no two kinds of words share one."""
    return any(set(phrase.split()) <= words_of(item) for item in scene.objects)


def true_of_pair(left: Scene, right: Scene, sentence: str) -> bool:
    """Say whether a statement about the left or the right scene is true."""
    side, phrase = sentence.split(" ", 1)
    return fits({"left": left, "right": right}[side], phrase)


def true_of_whole(scene: Scene, caption: str) -> bool:
    """Say whether each phrase of a caption, which ends with a row and a column, is true."""
    phrases = re.findall(rf"\S.*?(?:{'|'.join(ROWS)}) (?:{'|'.join(COLUMNS)})", caption)
    assert " ".join(phrases) == caption
    return all(fits(scene, phrase) for phrase in phrases)


def verdict(scene: Scene, cover: int | None, hypothesis: str) -> str:
    """Say what a picture, of which one cell may be covered, tells of "small red circle"."""
    if fits(Scene(tuple(item for item in scene.objects if item.cell != cover)), hypothesis):
        return "entailment"
    return "contradiction" if cover is None else "neutral"
