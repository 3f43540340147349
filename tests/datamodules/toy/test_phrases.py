"""Phrases: what they say, and of which scenes they are true."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.toy.phrases import UNSAID, Phrase, draw_phrase, scene_table
from datamodules.toy.world import draw_scene
from tests.datamodules.toy.worlds import fits, make_object, make_scene


def test_a_phrase_says_size_colour_shape_and_place() -> None:
    assert Phrase((0, 4, 3), 8).text == "small purple cross bottom right"
    assert Phrase((UNSAID, 0, UNSAID), 4).text == "red middle centre"
    assert Phrase((1, UNSAID, 2), None).text == "medium triangle"


def test_a_phrase_holds_where_one_object_has_all_of_its_words() -> None:
    table = scene_table(
        [
            make_scene("small red circle top left", "large blue square middle right"),
            make_scene("small blue circle top left", "large red circle middle right"),
        ]
    )
    for phrase, expected in (
        (Phrase((UNSAID, 0, 0), None), [True, True]),
        (Phrase((0, 0, UNSAID), None), [True, False]),
        (Phrase((UNSAID, 0, UNSAID), 0), [True, False]),
        (Phrase((2, UNSAID, UNSAID), 5), [True, True]),
        (Phrase((2, UNSAID, UNSAID), 0), [False, False]),
    ):
        assert phrase.holds(table).tolist() == expected


def test_drawn_phrases_hold_as_their_words_say() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(80)]
    table = scene_table(scenes)
    for scene in scenes:
        phrase = draw_phrase(scene.objects[0], rng, 0.5)
        assert phrase.holds(table).tolist() == [fits(other, phrase.text) for other in scenes]


def test_each_choice_of_words_is_equally_frequent() -> None:
    rng = np.random.default_rng(0)
    item = make_object("small red circle top left")
    drawn = Counter(draw_phrase(item, rng, 0.5).text for _ in range(7000))
    assert sum(count for text, count in drawn.items() if text.endswith("top left")) == pytest.approx(3500, abs=170)
    bare = Counter({text.removesuffix(" top left"): 0 for text in drawn})
    for text, count in drawn.items():
        bare[text.removesuffix(" top left")] += count
    assert set(bare) == {"small", "red", "circle", "small red", "small circle", "red circle", "small red circle"}
    assert max(abs(count - 1000) for count in bare.values()) < 4 * 1000**0.5
