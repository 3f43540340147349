"""The two splits: reproducible, apart from each other, each part of a scene from its own random stream."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.toy import scenes
from datamodules.toy.language import fitting, parse
from datamodules.toy.scenes import SPLITS, Purpose, SceneId, Split, describe, draw_world
from datamodules.toy.world import COLOURS, SHAPES, SIZES, Scene, place
from tests.datamodules.toy.worlds import make_scene


def test_no_scene_of_val_occurs_in_train() -> None:
    drawn = draw_world(3, {"train": 3000, "val": 500})
    keys = {split: {d.scene.key for d in drawn if d.scene_id.split == split} for split in ("train", "val")}
    assert len(drawn) == 3500
    assert not keys["train"] & keys["val"]


def test_a_val_scene_that_is_in_train_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [make_scene(f"small {colour} circle top left") for colour in ("red", "green", "blue", "cyan")]

    def draw_one_of_few(rng: np.random.Generator) -> Scene:
        return few[int(rng.integers(len(few)))]

    monkeypatch.setattr(scenes, "draw_scene", draw_one_of_few)
    drawn = draw_world(0, {"train": 3, "val": 40})
    taken = {d.scene.key for d in drawn[:3]}
    assert len(taken) < len(few)
    assert not taken & {d.scene.key for d in drawn[3:]}


def test_equal_seeds_give_equal_worlds_and_others_do_not() -> None:
    sizes: dict[Split, int] = {"train": 5, "val": 3}
    one, same, other = ([describe(d) for d in draw_world(seed, sizes)] for seed in (0, 0, 1))
    assert one == same
    assert all(a.scene != b.scene for a, b in zip(one, other, strict=True))
    assert [d.image_id for d in one] == list(range(1, 9))


def test_streams_are_independent_of_each_other() -> None:
    names = [SceneId(seed, split, number) for seed in (0, 1) for split in SPLITS for number in (0, 1)]
    draws = {name.stream(purpose).random() for name in names for purpose in Purpose}
    assert len(draws) == 8 * len(Purpose)


def test_each_region_phrase_fits_its_object_alone() -> None:
    described = [describe(d) for d in draw_world(0, {"train": 500, "val": 0})]
    lengths: Counter[int] = Counter()
    for description in described:
        for item, phrase in zip(description.scene.objects, description.regions, strict=True):
            words = phrase.split()
            lengths[len(words)] += 1
            full = [SIZES[item.size], COLOURS[item.colour], SHAPES[item.shape]]
            placed = phrase.endswith(place(item.cell))
            named = words[:-2] if placed else words
            assert named == [word for word in full if word in named]
            if not placed:
                assert named == full
                assert len(list(fitting(parse(phrase), description.scene.objects))) == 1
    assert set(lengths) == {3, 4, 5}
    assert lengths[5] / lengths.total() == pytest.approx(0.76 / 7, abs=0.03)  # one of seven choices of words


def test_a_scene_has_five_captions_three_questions_and_two_vcr_items() -> None:
    description = describe(draw_world(0, {"train": 1, "val": 0})[0])
    assert (len(description.captions), len(description.questions), len(description.vcr)) == (5, 3, 2)
    texts = list(description.texts())
    assert description.captions[0].text in texts
    assert description.questions[0].truth in texts
    assert len(texts) == 5 + len(description.regions) + 2 * 3 + 2 * 9
