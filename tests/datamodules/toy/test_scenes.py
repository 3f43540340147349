"""The two splits: reproducible, apart from each other, each part of a scene from its own random stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from datamodules.toy import scenes
from datamodules.toy.scenes import SPLITS, Purpose, SceneId, Split, describe, draw_world
from datamodules.toy.world import (
    COLOURS,
    COLUMNS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    place,
    relations,
)
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


def meant(phrase: str, objects: Sequence[SceneObject]) -> list[SceneObject]:
    """Read a region phrase: words of an object, then its place, or a relation and words of another object."""

    def fitting(words: str) -> list[SceneObject]:
        kinds = {item: {SIZES[item.size], COLOURS[item.colour], SHAPES[item.shape]} for item in objects}
        return [item for item, kind in kinds.items() if set(words.split()) <= kind]

    link = next((link for link in RELATIONS if f" {link} " in phrase), None)
    if link is not None:
        one, two = (fitting(words) for words in phrase.split(f" {link} "))
        return [item for item in one if any(link in relations(item, other) for other in two if other != item)]
    if phrase.split()[-1] in COLUMNS:
        words, where = phrase.split()[:-2], " ".join(phrase.split()[-2:])
        return [item for item in fitting(" ".join(words)) if place(item.cell) == where]
    return fitting(phrase)


def test_each_region_phrase_fits_its_object_alone() -> None:
    full = total = 0
    for description in (describe(d) for d in draw_world(0, {"train": 500, "val": 0})):
        objects = description.scene.objects
        for item, phrase in zip(objects, description.regions, strict=True):
            assert not any(link in phrase for link in RELATIONS)
            assert meant(phrase, objects) == [item]
            full, total = full + (phrase.split()[-1] not in COLUMNS), total + 1
    assert full / total == pytest.approx(0.24, abs=0.03)  # a quarter, less those that have a double


def test_each_related_phrase_fits_its_object_alone() -> None:
    told: list[str] = []
    every = 0
    for description in (describe(d) for d in draw_world(0, {"train": 500, "val": 0})):
        objects = description.scene.objects
        for item, phrase in zip(objects, description.relations, strict=True):
            every += 1
            if phrase is not None:
                assert any(f" {link} " in phrase for link in RELATIONS)
                assert meant(phrase, objects) == [item]
                told.append(phrase)
    assert len(told) / every > 0.9
    shares = Counter(next(link for link in RELATIONS if f" {link} " in phrase) for phrase in told)
    assert all(shares[link] / len(told) == pytest.approx(0.25, abs=0.03) for link in RELATIONS)  # no side is favoured


def test_a_placed_phrase_keeps_any_of_seven_choices_of_words() -> None:
    described = [describe(d) for d in draw_world(0, {"train": 500, "val": 0})]
    placed = [words.split() for d in described for words in d.regions if words.split()[-1] in COLUMNS]
    lengths = Counter(len(words) - 2 for words in placed)
    assert {length: count / len(placed) for length, count in lengths.items()} == {
        1: pytest.approx(3 / 7, abs=0.04),
        2: pytest.approx(3 / 7, abs=0.04),
        3: pytest.approx(1 / 7, abs=0.04),
    }


def test_a_scene_has_five_captions_three_questions_and_two_vcr_items() -> None:
    description = describe(draw_world(0, {"train": 1, "val": 0})[0])
    assert (len(description.captions), len(description.questions), len(description.vcr)) == (5, 3, 2)
    texts = list(description.texts())
    assert description.captions[0].text in texts
    assert description.questions[0].truth in texts
    told = sum(words is not None for words in description.relations)
    assert len(texts) == 5 + len(description.regions) + told + 2 * 3 + 2 * 9
