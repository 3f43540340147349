"""Captions: true, readable, and drawn with the probabilities that the arithmetic assumes."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from datamodules.toy.language import captions, fitting, likelihood, parse, phrase, readings
from datamodules.toy.world import draw_scene
from tests.datamodules.toy.worlds import make_object, make_scene


def test_a_caption_is_read_back_and_is_true_of_just_its_objects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = draw_scene(rng)
        for caption in captions(scene, rng, 5):
            statement = parse(caption.text)
            assert statement.text == caption.text
            assert 1 <= len(statement.kinds) <= min(3, len(scene.objects))
            assert {i for numbers in fitting(statement, scene.objects) for i in numbers} == set(caption.objects)


def test_doubles_are_both_mentioned_unless_the_words_tell_them_apart() -> None:
    scene = make_scene(
        "small red circle top left", "small red circle top right", "large blue square top centre"
    ).objects
    assert list(fitting(parse("small red circle"), scene)) == [(0,), (1,)]
    assert list(fitting(parse("small red circle top right"), scene)) == [(1,)]
    assert list(fitting(parse("small red circle left of large blue square"), scene)) == [(0, 2)]
    assert not list(fitting(parse("large blue square above small red circle"), scene))


def test_captions_are_drawn_with_the_probabilities_of_the_readings() -> None:
    scene = make_scene("small red circle top left", "small red circle middle right", "large blue square bottom centre")
    shares: dict[str, float] = defaultdict(float)
    for statement, share in readings(scene):
        shares[statement.text] += share
    assert sum(shares.values()) == pytest.approx(1)
    drawn = Counter(caption.text for caption in captions(scene, np.random.default_rng(0), 20_000))
    assert set(drawn) <= set(shares)
    for text, share in shares.items():
        assert abs(drawn[text] - 20_000 * share) < 5 * (20_000 * share) ** 0.5


def test_likelihood_is_the_sum_over_the_readings() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scene = draw_scene(rng)
        for caption in captions(scene, rng, 3):
            expected = sum((share for said, share in readings(scene) if said.text == caption.text), start=0.0)
            assert likelihood(parse(caption.text), scene.objects) == pytest.approx(expected)


def test_likelihood_of_more_names_than_objects_is_zero() -> None:
    scene = make_scene("small red circle top left", "small red circle top right")
    statement = parse("small red circle left of small red circle left of small red circle")
    assert likelihood(statement, scene.objects) == 0


def test_phrases_name_size_colour_shape_and_place() -> None:
    item = make_object("medium cyan cross bottom centre")
    assert phrase(item) == "medium cyan cross"
    assert phrase(item, with_place=True) == "medium cyan cross bottom centre"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "red circle",
        "small red circle top",
        "small red circle beside small red circle",
        "small red circle left of",
        "small red circle top left small red circle",
        "small red circle top left above small red circle",
    ],
)
def test_what_is_no_caption_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a caption"):
        parse(text)
