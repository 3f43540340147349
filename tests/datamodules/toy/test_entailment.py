"""Hypotheses about pictures with a cover: labelled as the picture says, and alike in every class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.toy.entailment import LABELS, CoveredScene, cover_scene
from datamodules.toy.world import CELLS, CLASSES, COLOURS, SHAPES, SIZES, draw_scene, place
from tests.datamodules.toy.worlds import verdict, words_of

SCENES = 2500


@pytest.fixture(scope="module")
def covered() -> list[CoveredScene]:
    rng = np.random.default_rng(0)
    return [cover_scene(draw_scene(rng), rng) for _ in range(SCENES)]


def test_each_picture_has_a_hypothesis_of_each_class_and_every_label_is_right(covered: list[CoveredScene]) -> None:
    for shown in covered:
        assert sorted(hypothesis.label for hypothesis in shown.hypotheses) == sorted(LABELS)
        for text, label in shown.hypotheses:
            assert label == verdict(shown.scene, place(shown.cover), text)


def test_a_contradiction_is_about_an_object_that_is_seen(covered: list[CoveredScene]) -> None:
    changed: Counter[int] = Counter()
    for shown in covered:
        (text,) = (text for text, label in shown.hypotheses if label == "contradiction")
        (item,) = (item for item in shown.scene.objects if text.endswith(place(item.cell)))
        assert item.cell != shown.cover
        changed[len(set(text.split()) - words_of(item))] += 1
    assert set(changed) == {1, 2, 3}
    shares = {1: 1 / 3 * 1 / 4, 2: 1 / 3 * 3 / 4 + 2 / 3 * 1 / 4, 3: 2 / 3 * 3 / 4}  # size and shape are any of 3 and 4
    for number, share in shares.items():
        assert abs(changed[number] - SCENES * share) < 4 * (SCENES * share) ** 0.5


@pytest.mark.parametrize("label", LABELS)
def test_all_texts_are_equally_likely_in_each_class(covered: list[CoveredScene], label: str) -> None:
    texts = [text.split() for shown in covered for text, found in shown.hypotheses if found == label]
    for values, kinds in (
        ([SIZES.index(size) for size, *_ in texts], 3),
        ([CLASSES.index(f"{colour} {shape}") for _, colour, shape, *_ in texts], len(COLOURS) * len(SHAPES)),
        ([[place(cell) for cell in range(CELLS)].index(" ".join(words[3:])) for words in texts], CELLS),
    ):
        expected = len(texts) / kinds
        assert np.abs(np.bincount(values, minlength=kinds) - expected).max() < 4 * expected**0.5


def test_the_order_of_the_classes_and_what_is_under_the_cover_tell_nothing(covered: list[CoveredScene]) -> None:
    first = Counter(shown.hypotheses[0].label for shown in covered)
    assert max(abs(count - SCENES / 3) for count in first.values()) < 4 * (SCENES / 3) ** 0.5
    hidden = [shown.cover in {item.cell for item in shown.scene.objects} for shown in covered]
    assert np.mean(hidden) == pytest.approx(3.5 / CELLS, abs=0.03)  # a scene has 3.5 objects on the average
