"""NLVR2's scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.metrics.consistency import Consistency, consistency_scores, sentence_of


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1))
def test_the_scores_equal_their_definitions(samples: list[tuple[str, bool]]) -> None:
    sentences = sorted({sentence for sentence, _ in samples})
    consistent = [s for s in sentences if all(right for sentence, right in samples if sentence == s)]
    scores = consistency_scores([sentence for sentence, _ in samples], [right for _, right in samples])
    assert scores.accuracy == pytest.approx(len([1 for _, right in samples if right]) / len(samples))
    assert scores.consistency == pytest.approx(len(consistent) / len(sentences))


def test_a_sentence_counts_if_right_on_all_its_pairs() -> None:
    # two of the first sentence's three pairs are right, both of the second's, the third's only one: 5 of 6, 2 of 3
    assert consistency_scores(["a", "b", "a", "c", "b", "a"], [True, True, False, True, True, True]) == (5 / 6, 2 / 3)


def test_a_subset_is_judged_by_itself() -> None:
    assert consistency_scores(["a", "a"], [True, False]).consistency == 0
    assert consistency_scores(["a"], [True]).consistency == 1


def test_an_identifier_without_its_pair_names_the_sentence() -> None:
    assert sentence_of("dev-850-0-1") == sentence_of("dev-850-3-1") == "dev-850--1"
    assert len({sentence_of(name) for name in ("dev-850-0-1", "dev-850-0-2", "dev-851-0-1", "test1-850-0-1")}) == 4
    with pytest.raises(UserError, match="dev-850-0.*split-set-pair-sentence"):
        sentence_of("dev-850-0")


def test_nothing_to_judge_is_no_number() -> None:
    assert all(math.isnan(score) for score in consistency_scores([], []))


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="1 groups, 2 right"):
        consistency_scores(["a"], [True, False])
    with pytest.raises(UserError, match="2 sample_ids, 2 groups, 1 right"):
        Consistency().update(["1", "2"], ["a", "a"], [True])
