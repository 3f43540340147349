"""VQA questions: clear, answerable from the picture only, and answered by annotators who err now and then."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.toy.questions import ANNOTATORS, Question, count_shares, plausible, questions
from datamodules.toy.world import Scene, draw_scene
from tests.datamodules.toy.worlds import answers

SCENES = 4000


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, list[Question]]]:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(SCENES)]
    return [(scene, questions(scene, rng)) for scene in scenes]


def test_each_scene_has_three_different_questions_with_one_true_answer(
    asked: list[tuple[Scene, list[Question]]],
) -> None:
    for scene, group in asked:
        assert len({question.text for question in group}) == 3
        for question in group:
            assert answers(scene, question.text) == {question.truth}


def test_answers_are_uniform_given_the_text(asked: list[tuple[Scene, list[Question]]]) -> None:
    counts: dict[str, Counter[str]] = {}
    for _, group in asked:
        for question in group:
            counts.setdefault(question.question_type, Counter())[question.truth] += 1
    assert len(counts) == 5
    for found in counts.values():
        kinds = plausible(next(iter(found)))
        expected = sum(found.values()) / len(kinds)
        assert max(abs(found[answer] - expected) for answer in kinds) < 4 * expected**0.5


def test_no_answer_betrays_itself_by_the_words_of_its_question(
    asked: list[tuple[Scene, list[Question]]],
) -> None:
    seen: dict[str, Counter[str]] = {}
    for _, group in asked:
        for question in group:
            for word in question.text.split():
                seen.setdefault(f"{question.question_type}: {word}", Counter())[question.truth] += 1
    for found in seen.values():
        kinds = plausible(next(iter(found)))
        expected = sum(found.values()) / len(kinds)
        assert max(abs(found[answer] - expected) for answer in kinds) < 5 * expected**0.5 + 1


def test_annotators_agree_on_the_truth_and_err_plausibly(asked: list[tuple[Scene, list[Question]]]) -> None:
    every = [question for _, group in asked for question in group]
    for question in every:
        assert len(question.answers) == ANNOTATORS
        assert Counter(question.answers).most_common(1)[0][0] == question.truth
        assert set(question.answers) <= set(plausible(question.truth))
    errors = np.mean([answer != question.truth for question in every for answer in question.answers])
    assert errors == pytest.approx(0.1, abs=0.005)


def test_types_are_named_and_yes_no_stays_rare(asked: list[tuple[Scene, list[Question]]]) -> None:
    every = [question for _, group in asked for question in group]
    shares = Counter(question.answer_type for question in every)
    assert shares["yes/no"] / len(every) < 0.25
    assert shares["number"] / len(every) > 0.015
    starts = {
        "yes/no": {"is there"},
        "number": {"how many"},
        "other": {"what colour", "what shape", "what size"},
    }
    for question in every:
        assert question.question_type in starts[question.answer_type]


def test_count_shares_of_a_world_of_one_colour() -> None:
    assert count_shares(1) == pytest.approx((0, 0, 0.25, 0.25))  # two to five objects, all of that colour


def test_count_shares_of_two_colours_by_hand() -> None:
    # exactly none of one of the colours: all objects alike, 2 ways of 2 ** n
    assert count_shares(2)[0] == pytest.approx(np.mean([2 / 2**n for n in (2, 3, 4, 5)]))
