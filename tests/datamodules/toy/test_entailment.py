"""Hypotheses about pictures with a cover: labelled as the picture says, and alike in every class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.toy.entailment import LABELS, CoveredScene, cover_scene
from datamodules.toy.world import CELLS, CLASSES, COLOURS, SHAPES, SIZES, draw_scene
from tests.datamodules.toy.worlds import verdict

SCENES = 2500


@pytest.fixture(scope="module")
def covered() -> list[CoveredScene]:
    rng = np.random.default_rng(0)
    return [cover_scene(draw_scene(rng), rng) for _ in range(SCENES)]


def test_each_picture_says_one_thing_and_leaves_two_unsaid_and_every_label_is_right(
    covered: list[CoveredScene],
) -> None:
    for shown in covered:
        other = "contradiction" if shown.cover is None else "neutral"
        assert sorted(hypothesis.label for hypothesis in shown.hypotheses) == sorted(["entailment", other, other])
        for text, label in shown.hypotheses:
            assert label == verdict(shown.scene, shown.cover, text)


@pytest.mark.parametrize("label", LABELS)
def test_all_texts_are_equally_likely_in_each_class(covered: list[CoveredScene], label: str) -> None:
    texts = [text.split() for shown in covered for text, found in shown.hypotheses if found == label]
    for values, kinds in (
        ([SIZES.index(size) for size, *_ in texts], 3),
        ([CLASSES.index(f"{colour} {shape}") for _, colour, shape, *_ in texts], len(COLOURS) * len(SHAPES)),
    ):
        expected = len(texts) / kinds
        assert np.abs(np.bincount(values, minlength=kinds) - expected).max() < 4 * expected**0.5


def test_order_and_covers_tell_nothing(covered: list[CoveredScene]) -> None:
    first = Counter(shown.hypotheses[0].label == "entailment" for shown in covered)
    assert abs(first[True] - SCENES / 3) < 4 * (SCENES / 3) ** 0.5
    places = [shown.cover for shown in covered if shown.cover is not None]
    assert len(places) == pytest.approx(SCENES / 2, abs=4 * (SCENES / 2) ** 0.5)
    expected = len(places) / CELLS
    assert np.abs(np.bincount(places, minlength=CELLS) - expected).max() < 4 * expected**0.5
    hidden = [shown.cover in {i.cell for i in shown.scene.objects} for shown in covered if shown.cover is not None]
    assert np.mean(hidden) == pytest.approx(3.5 / CELLS, abs=0.04)  # a scene has 3.5 objects on the average
