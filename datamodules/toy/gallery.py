"""Flickr30k-like captions that describe whole scenes, so that a picture can be found by them.

A caption speaks of every object, in random order, mostly with all of its words and always with its place ("small red
circle top left large circle middle right"). It is true of a scene if each named place holds such an object; the scene
may hold more. In a set to search, no caption is true of another scene: those that would be are drawn again. Captions
of few objects are redrawn more often, and so say more words an object than others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.toy.phrases import Phrase, Table, attributes_of, draw_phrase, scene_table
from datamodules.toy.scenes import CAPTIONS_PER_SCENE, FreshScenes
from datamodules.toy.world import Scene, SceneObject

FULL = 0.75  # share of objects that are told with size, colour and shape
TRIES = 100  # captions of a scene, before it is drawn again


@dataclass(frozen=True)
class WholeCaption:
    """A phrase for each object of a scene."""

    phrases: tuple[Phrase, ...]

    @property
    def text(self) -> str:
        """Return the words; every phrase ends with its place."""
        return " ".join(phrase.text for phrase in self.phrases)

    def true_of(self, table: Table) -> list[int]:
        """Return the rows of the scenes of which the caption is true."""
        held = np.logical_and.reduce([phrase.holds(table) for phrase in self.phrases])
        return [int(row) for row in np.flatnonzero(held)]


@dataclass(frozen=True)
class GalleryScene:
    """A scene and its captions."""

    scene: Scene
    captions: tuple[WholeCaption, ...]


def draw_caption(scene: Scene, rng: np.random.Generator) -> WholeCaption:
    """Describe all objects of a scene."""
    return WholeCaption(tuple(_phrase(scene.objects[i], rng) for i in rng.permutation(len(scene.objects))))


def _phrase(item: SceneObject, rng: np.random.Generator) -> Phrase:
    return Phrase(attributes_of(item), item.cell) if rng.random() < FULL else draw_phrase(item, rng)


def describe_freely(scenes: Sequence[Scene], streams: Sequence[np.random.Generator]) -> list[GalleryScene]:
    """Describe scenes of which nothing is searched; some captions are true of several."""
    return [
        GalleryScene(scene, tuple(draw_caption(scene, rng) for _ in range(CAPTIONS_PER_SCENE)))
        for scene, rng in zip(scenes, streams, strict=True)
    ]


def describe_apart(fresh: FreshScenes, streams: Sequence[np.random.Generator]) -> list[GalleryScene]:
    """Describe each scene so that no caption is true of another; draw those again that cannot be told apart.

    Args:
        fresh: The scenes; those that are drawn again take the places of the old ones.
        streams: Of the captions, one a scene.
    """
    while True:
        table = scene_table(fresh.scenes)
        told = [_captions_apart(number, fresh.scenes[number], table, rng) for number, rng in enumerate(streams)]
        done = [GalleryScene(scene, texts) for scene, texts in zip(fresh.scenes, told, strict=True) if texts]
        if len(done) == len(told):
            return done
        for number, texts in enumerate(told):
            if not texts:
                fresh.redraw(number)


def _captions_apart(number: int, scene: Scene, table: Table, rng: np.random.Generator) -> tuple[WholeCaption, ...]:
    """Draw captions that are true of this scene alone; none if they are too rare."""
    drawn = (draw_caption(scene, rng) for _ in range(TRIES))
    apart = (caption for caption in drawn if caption.true_of(table) == [number])
    found = tuple(itertools.islice(apart, CAPTIONS_PER_SCENE))
    return found if len(found) == CAPTIONS_PER_SCENE else ()
