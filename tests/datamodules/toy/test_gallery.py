"""Captions of whole scenes: complete, true, and in a set to search of their own scene alone."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from datamodules.toy.gallery import GalleryScene, _captions_apart, describe_apart, describe_freely
from datamodules.toy.phrases import scene_table
from datamodules.toy.scenes import FreshScenes
from datamodules.toy.world import SceneKey, draw_scene, place
from tests.datamodules.toy.worlds import true_of_whole


def streams(count: int, seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, number)) for number in range(count)]


def fresh(count: int, taken: Collection[SceneKey] = ()) -> FreshScenes:
    return FreshScenes(streams(count, 0), taken)


def accidents(shown: list[GalleryScene]) -> int:
    """Count captions that are true of another scene."""
    return sum(
        true_of_whole(other.scene, caption.text)
        for one in shown
        for caption in one.captions
        for other in shown
        if other is not one
    )


def test_every_object_is_told_of_with_its_place() -> None:
    for shown in describe_freely(fresh(100).scenes, streams(100, 1)):
        assert len(shown.captions) == 5
        for caption in shown.captions:
            assert true_of_whole(shown.scene, caption.text)
            assert all(place(item.cell) in caption.text for item in shown.scene.objects)
            assert len(caption.phrases) == len(shown.scene.objects)
            assert len(caption.text.split()) <= 25  # and two special tokens are less than 32


def test_in_a_set_to_search_no_caption_is_true_of_another_scene() -> None:
    many = fresh(2000).scenes
    table = scene_table(many)
    assert any(len(c.true_of(table)) > 1 for shown in describe_freely(many, streams(2000, 1)) for c in shown.captions)
    scenes = fresh(50)
    shown = describe_apart(scenes, streams(50, 1))
    assert [one.scene for one in shown] == scenes.scenes
    assert all(len(one.captions) == 5 for one in shown)
    assert accidents(shown) == 0


def test_scenes_that_cannot_be_told_apart_are_drawn_again() -> None:
    twins = FreshScenes([np.random.default_rng(0), np.random.default_rng(0), np.random.default_rng(1)], ())
    twins._streams[1].random()  # from here on the two streams differ
    before = list(twins.scenes)
    assert before[0] == before[1]
    shown = describe_apart(twins, streams(3, 1))
    assert accidents(shown) == 0
    assert twins.scenes[2] == before[2]
    assert twins.scenes[0] != before[0]
    assert twins.scenes[0] != twins.scenes[1]


def test_fresh_scenes_show_nothing_that_is_taken() -> None:
    taken = {draw_scene(rng).key for rng in streams(10, 0)}
    scenes = fresh(20, taken)
    assert not taken & {scene.key for scene in scenes.scenes}
    assert [scene.key for scene in scenes.scenes[10:]] == [draw_scene(rng).key for rng in streams(20, 0)][10:]


def test_rare_captions_are_given_up() -> None:
    table = scene_table(fresh(3).scenes * 2)
    assert _captions_apart(0, fresh(3).scenes[0], table, np.random.default_rng(0)) == ()
