"""Per-class accuracy and confusion counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.metrics.per_class import ClassAccuracy, class_scores

NAMES = ("entailment", "neutral", "contradiction")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_the_scores_equal_their_definitions(samples: list[tuple[int, int]]) -> None:
    scores = class_scores([target for target, _ in samples], [prediction for _, prediction in samples], NAMES)
    assert scores.accuracy == pytest.approx(len([1 for target, guess in samples if target == guess]) / len(samples))
    assert scores.confusion == [[samples.count((target, guess)) for guess in range(3)] for target in range(3)]
    for number, name in enumerate(NAMES):
        of_class = [guess for target, guess in samples if target == number]
        if of_class:
            assert scores.per_class[name] == pytest.approx(of_class.count(number) / len(of_class))
        else:
            assert math.isnan(scores.per_class[name])


def test_rows_are_true_classes_and_columns_predicted_ones() -> None:
    scores = class_scores([0, 0, 0, 0, 2], [0, 1, 1, 2, 2], NAMES)
    assert scores.confusion == [[1, 2, 1], [0, 0, 0], [0, 0, 1]]
    assert scores.accuracy == 0.4
    assert (scores.per_class["entailment"], scores.per_class["contradiction"]) == (0.25, 1.0)


def test_nothing_to_judge_is_no_number() -> None:
    assert math.isnan(class_scores([], [], NAMES).accuracy)


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(UserError, match="target -1 of sample 1 is none of the 3 classes"):
        class_scores([0, -1], [0, 0], NAMES)
    with pytest.raises(UserError, match="prediction 3 of sample 'p7' is none of the 3 classes"):
        ClassAccuracy(NAMES).update(["p7"], torch.tensor([0]), torch.tensor([3]))
    with pytest.raises(UserError, match="different names"):
        class_scores([], [], ["yes", "yes"])
    with pytest.raises(UserError, match="2 targets, 1 predictions"):
        class_scores([0, 1], [0], NAMES)
