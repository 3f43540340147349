"""Official VQA accuracy against the ten subsets written out, and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.metrics.vqa_accuracy import VQAAccuracy, vqa_accuracy, vqa_scores
from vle_lightning.vqa_answers import normalise

ANSWERS = st.sampled_from(["red", "Red", "red.", "a red", "the", "a", "2", "two", "1,000", "1000", "no\n", "no", ""])


def over_subsets(prediction: str, answers: list[str]) -> float:
    """Leave each annotator out in turn and count those left who agree."""
    trimmed = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers]
    prediction = prediction.replace("\n", " ").replace("\t", " ").strip()
    if any(answer != trimmed[0] for answer in trimmed):
        trimmed, prediction = [normalise(answer) for answer in trimmed], normalise(prediction)
    scores = []
    for left_out in range(len(trimmed)):
        agreeing = 0
        for other, answer in enumerate(trimmed):
            if other != left_out and answer == prediction:
                agreeing += 1
        scores.append(min(1, agreeing / 3))
    return sum(scores) / len(scores)


@given(ANSWERS, st.lists(ANSWERS, min_size=2, max_size=10))
@settings(max_examples=300, deadline=None)
def test_the_accuracy_equals_the_mean_over_all_subsets(prediction: str, answers: list[str]) -> None:
    assert vqa_accuracy(prediction, answers) == pytest.approx(over_subsets(prediction, answers), abs=1e-12)


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        (0, 0.0),
        (1, 0.3),  # nine subsets hold one match (1/3), one holds none: 9/30
        (2, 0.6),  # eight hold two, two hold one: (16 + 2)/30
        (3, 0.9),  # seven hold three, three hold two: (21 + 6)/30
        (4, 1.0),
        (9, 1.0),
    ],
)
def test_ten_annotators_of_whom_some_agree(matches: int, expected: float) -> None:
    answers = ["cat"] * matches + [f"other {number}x" for number in range(10 - matches)]
    assert vqa_accuracy("Cat.", answers) == expected


def test_answers_that_are_all_the_same_are_not_normalised() -> None:
    assert vqa_accuracy("yes", ["Yes"] * 10) == 0
    assert vqa_accuracy("Yes", ["Yes"] * 10) == 1
    assert vqa_accuracy("the cat", ["cat"] * 10) == 0
    assert vqa_accuracy("the cat", ["cat"] * 9 + ["dog"]) == 1


def test_line_breaks_and_spaces_at_the_ends_do_not_make_answers_differ() -> None:
    answers = ["Yes"] * 8 + ["Yes\n", "\tYes "]
    assert vqa_accuracy("yes", answers) == 0
    assert vqa_accuracy(" Yes\n", answers) == 1


def test_answers_that_only_normalisation_makes_the_same_count_together() -> None:
    assert vqa_accuracy("two", ["2", "two", "Two.", "the two", *["none"] * 6]) == 1
    assert vqa_accuracy("the", ["a", "an", "", "the", *["cat"] * 6]) == 1  # what nothing is left of is the same


def test_fewer_annotators_keep_the_definition() -> None:
    assert vqa_accuracy("cat", ["cat", "cat"]) == pytest.approx(1 / 3)
    assert vqa_accuracy("cat", ["cat", "dog"]) == pytest.approx(1 / 6)
    assert vqa_accuracy("cat", ["cat"] * 3) == pytest.approx(2 / 3)
    assert vqa_accuracy("cat", ["cat"] * 4) == 1


def test_a_single_answer_is_met_or_not_after_normalisation() -> None:
    assert vqa_accuracy("The Cat.", ["cat"]) == 1
    assert vqa_accuracy("cats", ["cat"]) == 0


def test_types_are_averaged_over_their_questions() -> None:
    scores = vqa_scores(
        ["yes", "no", "2", "cat"],
        [["yes"] * 10, ["yes"] * 10, ["2", *["3"] * 9], ["cat"]],
        ["yes/no", "yes/no", "number", None],
        ["is the", "is", "how many", "is the"],
    )
    assert scores.overall == pytest.approx(2.3 / 4)
    assert scores.per_answer_type == {"number": pytest.approx(0.3), "yes/no": 0.5}
    assert scores.per_question_type == {"how many": pytest.approx(0.3), "is": 0.0, "is the": 1.0}


def test_nothing_to_judge_is_no_number() -> None:
    scores = vqa_scores([], [])
    assert math.isnan(scores.overall)
    assert scores.per_answer_type == {}


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="1 predictions, 2 answers"):
        vqa_scores(["yes"], [["yes"], ["no"]])
    with pytest.raises(UserError, match="1 predictions, 0 answer_types"):
        vqa_scores(["yes"], [["yes"]], [])
    with pytest.raises(UserError, match="without any answer"):
        vqa_scores(["yes"], [[]])


def test_a_question_without_answers_is_named() -> None:
    with pytest.raises(UserError, match="question 'q2' has no answer"):
        VQAAccuracy().update(["q1", "q2"], ["yes", "no"], [["yes"], []])
