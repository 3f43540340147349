"""The scenes of both splits and all that is said about them, each from a random stream of its own.

A stream is named by seed, split, scene number and purpose, so that no part of the world shifts when another
changes, and any process can paint any scene.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np

from datamodules.toy.commonsense import FAMILIES, FAMILIES_OF_TRAIN, VCRItem, vcr_items
from datamodules.toy.language import Caption, captions, phrase
from datamodules.toy.questions import Question, questions
from datamodules.toy.world import Scene, SceneKey, SceneObject, draw_scene, place, relations

CAPTIONS_PER_SCENE = 5
FULL_PHRASES = 0.25  # share of region phrases that name size, colour and shape and no place
RELATED_TRIES = 4  # choices of words for a relation; one that fits two objects is drawn again

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


class Purpose(IntEnum):
    """What a random stream is for."""

    SCENE = 0
    PICTURE = 1
    CAPTIONS = 2
    REGIONS = 3
    QUESTIONS = 4
    COMMONSENSE = 5
    PAIR_SCENES = 6
    PAIR_PICTURES = 7
    PAIRS = 8
    COVERED_SCENES = 9
    COVERED_PICTURES = 10
    HYPOTHESES = 11
    GALLERY_SCENES = 12
    GALLERY_PICTURES = 13
    GALLERY_CAPTIONS = 14
    BARE_SCENES = 15
    BARE_PICTURES = 16
    TOLD_SCENES = 17
    TOLD_CAPTIONS = 18
    RELATIONS = 19
    CLASS_SCENES = 20
    CLASS_PICTURES = 21
    MASK_SCENES = 22
    MASK_PICTURES = 23


class StreamId(NamedTuple):
    """Names one random stream of a world."""

    seed: int
    split: int  # position among the splits of its data set
    number: int  # from 0 in its split
    purpose: Purpose

    def start(self) -> np.random.Generator:
        """Return the stream from its beginning."""
        return np.random.default_rng(tuple(self))


class SceneId(NamedTuple):
    """Names one scene of a world."""

    seed: int
    split: Split
    number: int  # from 0 in its split

    def stream(self, purpose: Purpose) -> np.random.Generator:
        """Return the scene's random stream for one purpose."""
        return StreamId(self.seed, SPLITS.index(self.split), self.number, purpose).start()


class DrawnScene(NamedTuple):
    """A scene and its names."""

    image_id: int  # unique over both splits, from 1
    scene_id: SceneId
    scene: Scene


@dataclass(frozen=True)
class Description:
    """A scene with its texts."""

    image_id: int
    scene_id: SceneId
    scene: Scene
    captions: tuple[Caption, ...]
    regions: tuple[str, ...]  # one an object
    relations: tuple[str | None, ...]  # likewise; None where no relation tells an object from the others
    questions: tuple[Question, ...]
    vcr: tuple[VCRItem, ...]

    def texts(self) -> Iterator[str]:
        """Yield every sentence that a tokenizer has to know."""
        yield from (caption.text for caption in self.captions)
        yield from self.regions
        yield from filter(None, self.relations)
        for question in self.questions:
            yield question.text
            yield question.truth
        for item in self.vcr:
            for tokens in (item.question, *item.answer_choices, *item.rationale_choices):
                yield " ".join(token for token in tokens if isinstance(token, str))


def draw_world(seed: int, sizes: Mapping[Split, int]) -> list[DrawnScene]:
    """Draw the scenes of both splits; no scene of val occurs in train (up to jitter and order).

    Args:
        seed: Seed of the world.
        sizes: Number of scenes in each split.
    """
    drawn: list[DrawnScene] = []
    taken: set[SceneKey] = set()
    for split in SPLITS:
        for number in range(sizes[split]):
            scene_id = SceneId(seed, split, number)
            stream = scene_id.stream(Purpose.SCENE)
            scene = draw_scene(stream)
            while split == "val" and scene.key in taken:
                scene = draw_scene(stream)
            if split == "train":
                taken.add(scene.key)
            drawn.append(DrawnScene(len(drawn) + 1, scene_id, scene))
    return drawn


class FreshScenes:
    """Scenes that one split of a task has of its own; none of them shows what a taken one does."""

    def __init__(self, streams: Iterable[np.random.Generator], taken: Container[SceneKey]) -> None:
        """Draw a scene from each random stream."""
        self._streams = tuple(streams)
        self._taken = taken
        self.scenes = [self._draw(stream) for stream in self._streams]

    def redraw(self, number: int) -> None:
        """Put another scene in the place of one."""
        self.scenes[number] = self._draw(self._streams[number])

    def _draw(self, stream: np.random.Generator) -> Scene:
        while (scene := draw_scene(stream)).key in self._taken:
            pass
        return scene


def describe(drawn: DrawnScene) -> Description:
    """Write all texts of one scene."""
    image_id, scene_id, scene = drawn
    families = FAMILIES_OF_TRAIN if scene_id.split == "train" else FAMILIES
    return Description(
        image_id,
        scene_id,
        scene,
        tuple(captions(scene, scene_id.stream(Purpose.CAPTIONS), CAPTIONS_PER_SCENE)),
        _regions(scene, scene_id.stream(Purpose.REGIONS)),
        _relations(scene, scene_id.stream(Purpose.RELATIONS)),
        tuple(questions(scene, scene_id.stream(Purpose.QUESTIONS))),
        tuple(vcr_items(scene, scene_id.stream(Purpose.COMMONSENSE), families)),
    )


def _regions(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """Write a phrase for each object: a quarter in full, without a place, unless it has a double.

    The rest tell the place, and may leave out other words ("red top left"): what is where can be told
    from each side.
    """
    bare = Counter(phrase(item) for item in scene.objects)
    return tuple(
        phrase(item)
        if rng.random() < FULL_PHRASES and bare[phrase(item)] == 1
        else f"{_some_words(item, rng)} {place(item.cell)}"
        for item in scene.objects
    )


def _relations(scene: Scene, rng: np.random.Generator) -> tuple[str | None, ...]:
    return tuple(_related(scene, item, rng) for item in scene.objects)


def _some_words(item: SceneObject, rng: np.random.Generator) -> str:
    """Keep a random, non-empty choice of size, colour and shape."""
    words = phrase(item).split()
    kept = 1 + int(rng.integers(2 ** len(words) - 1))
    return " ".join(word for bit, word in enumerate(words) if kept >> bit & 1)


def _related(scene: Scene, item: SceneObject, rng: np.random.Generator) -> str | None:
    """Tell an object by its relation to another: "circle left of red square"; None if no words tell it apart."""
    others = [other for other in scene.objects if other is not item]
    for _ in range(RELATED_TRIES):
        other = others[int(rng.integers(len(others)))]
        links = relations(item, other)
        one, link, two = _some_words(item, rng), links[int(rng.integers(len(links)))], _some_words(other, rng)
        if [found for found in scene.objects if _reads(found, one, link, two, scene)] == [item]:
            return f"{one} {link} {two}"
    return None


def _reads(item: SceneObject, one: str, link: str, two: str, scene: Scene) -> bool:
    """Say whether an object can be the first of a related phrase."""
    return _fits(item, one) and any(
        _fits(other, two) and link in relations(item, other) for other in scene.objects if other is not item
    )


def _fits(item: SceneObject, words: str) -> bool:
    return set(words.split()) <= set(phrase(item).split())
