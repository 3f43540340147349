"""The splits of the tasks: sizes, scenes apart from each other, and no word that the world does not have."""

from __future__ import annotations

import itertools

import pytest

from datamodules.toy.build import words_of
from datamodules.toy.scenes import SPLITS, Split, describe, draw_world
from datamodules.toy.tasks import Tasks, draw_tasks
from datamodules.toy.world import Scene, SceneKey
from tests.datamodules.toy.worlds import true_of_whole

SIZES: dict[Split, int] = {"train": 140, "val": 40}


@pytest.fixture(scope="module")
def world() -> dict[Split, list[Scene]]:
    drawn = draw_world(0, SIZES)
    return {split: [d.scene for d in drawn if d.scene_id.split == split] for split in SPLITS}


@pytest.fixture(scope="module")
def tasks(world: dict[Split, list[Scene]]) -> Tasks:
    return draw_tasks(0, world)


def scenes_of(tasks: Tasks) -> list[dict[str, list[Scene]]]:
    return [
        {split: list(pairs.pool) for split, pairs in tasks.pairs.items()},
        {split: [shown.scene for shown in covered] for split, covered in tasks.covered.items()},
        {split: [shown.scene for shown in gallery] for split, gallery in tasks.gallery.items()},
    ]


def test_sizes_follow_the_world(tasks: Tasks) -> None:
    assert {split: len(pairs.blocks) for split, pairs in tasks.pairs.items()} == {"train": 30, "dev": 8, "test1": 8}
    assert {split: len(shown) for split, shown in tasks.covered.items()} == {"train": 80, "dev": 20, "test": 20}
    assert {split: len(shown) for split, shown in tasks.gallery.items()} == {"train": 80, "val": 5, "test": 15}


def test_no_scene_of_a_split_occurs_in_another_of_its_task_nor_in_the_worlds_training(
    tasks: Tasks, world: dict[Split, list[Scene]]
) -> None:
    trained = {scene.key for scene in world["train"]}
    assert tasks.pairs["train"].pool == tuple(world["train"])
    for splits in scenes_of(tasks):
        keys: dict[str, set[SceneKey]] = {split: {scene.key for scene in scenes} for split, scenes in splits.items()}
        for one, other in itertools.combinations(keys, 2):
            assert not keys[one] & keys[other]
        for split in keys.keys() - {"train"}:
            assert not keys[split] & trained


def test_every_data_set_draws_from_streams_of_its_own(tasks: Tasks, world: dict[Split, list[Scene]]) -> None:
    scenes = [scene for split in SPLITS for scene in world[split]]
    for splits in scenes_of(tasks):
        scenes += [scene for split, found in splits.items() if found != world["train"] for scene in found]
    assert len({scene.key for scene in scenes}) > 0.99 * len(scenes)  # a scene of two objects may come again by chance


def test_sets_to_search_have_no_caption_that_is_true_of_another_scene(tasks: Tasks) -> None:
    for split in ("val", "test"):
        gallery = tasks.gallery[split]
        for one, other in itertools.product(gallery, gallery):
            assert all(true_of_whole(other.scene, caption.text) == (one is other) for caption in one.captions)


def test_the_vocabulary_is_the_worlds(tasks: Tasks) -> None:
    known = words_of(text for drawn in draw_world(0, {"train": 60, "val": 0}) for text in describe(drawn).texts())
    texts = list(tasks.texts())
    assert len(texts) == 2 * (30 + 8 + 8) + 3 * (80 + 20 + 20) + 5 * (80 + 5 + 15)
    assert words_of(texts) <= known
    assert max(len(text.split()) for text in texts) <= 25


def test_equal_seeds_give_equal_tasks_and_others_do_not(tasks: Tasks, world: dict[Split, list[Scene]]) -> None:
    assert draw_tasks(0, world) == tasks
    other = draw_tasks(1, world)
    assert other.covered["dev"][0] != tasks.covered["dev"][0]
    assert other.gallery["val"][0] != tasks.gallery["val"][0]
    assert other.pairs["dev"].pool[0] != tasks.pairs["dev"].pool[0]
