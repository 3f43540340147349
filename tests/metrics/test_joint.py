"""VCR's three scores."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.metrics.joint import JointAccuracy, JointScores, Side, joint_scores


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), st.randoms(use_true_random=False))
def test_the_scores_equal_their_definitions(pairs: list[tuple[bool, bool]], chance: random.Random) -> None:
    order = list(range(len(pairs)))
    chance.shuffle(order)  # the sides come in orders of their own
    scores = joint_scores(range(len(pairs)), [a for a, _ in pairs], order, [pairs[question][1] for question in order])
    assert scores.q2a == pytest.approx(pairs.count((True, True)) / len(pairs) + pairs.count((True, False)) / len(pairs))
    assert scores.qa2r == pytest.approx(sum(r for _, r in pairs) / len(pairs))
    assert scores.q2ar == pytest.approx(pairs.count((True, True)) / len(pairs))


def test_both_must_be_right() -> None:
    answers = {"q1": True, "q2": True, "q3": True, "q4": False}
    rationales = {"q4": True, "q3": False, "q2": True, "q1": False}
    scores = joint_scores([*answers], [*answers.values()], [*rationales], [*rationales.values()])
    assert scores == JointScores(q2a=0.75, qa2r=0.5, q2ar=0.25)


@pytest.mark.parametrize(
    ("answers", "rationales", "message"),
    [
        (["q1"], ["q1", "q2"], "1 of 2 questions have no answer: 'q2'"),
        (["q1", "q2"], ["q2"], "1 of 2 questions have no rationale: 'q1'"),
        ([*"abcdefg"], [], r"7 of 7 questions have no rationale: 'a', 'b', 'c', 'd', 'e', \.\.\."),
        (["q1", "q1"], ["q1"], "question 'q1' comes twice among the answers"),
    ],
)
def test_a_question_without_its_other_half_is_named(answers: list[str], rationales: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        joint_scores(answers, [True] * len(answers), rationales, [True] * len(rationales))


def test_nothing_to_judge_is_no_number() -> None:
    assert all(math.isnan(score) for score in joint_scores([], [], [], []))


def test_there_are_two_sides() -> None:
    side: Side = "question"  # type: ignore[assignment]
    with pytest.raises(UserError, match="answer .* or rationale"):
        JointAccuracy().update(side, ["q1"], [True])
