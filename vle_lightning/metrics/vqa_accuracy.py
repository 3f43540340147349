"""VQA accuracy: the soft one that models are trained towards, and the official one that is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.by_id import ByID, Key, SampleID
from vle_lightning.metrics.columns import check_lengths, mean, mean_by
from vle_lightning.vqa_answers import normalise, strip_answer


def soft_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Score the best answer of each question (VQA, arXiv 1505.00468, section 3).

    Args:
        logits: (B, C).
        targets: (B, C) float in [0, 1], the credit of each answer.

    Returns:
        (B,) float in [0, 1].
    """
    return targets.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)


class VQAScores(NamedTuple):
    """Official accuracies in [0, 1]; NaN where there was no question. The official scorer prints percentages."""

    overall: float
    per_answer_type: dict[str, float]
    per_question_type: dict[str, float]


class VQARow(NamedTuple):
    """What one question adds to the score."""

    prediction: str
    accuracy: float
    answer_type: str | None
    question_type: str | None


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Judge one answer as the official scorer does (github.com/GT-Vision-Lab/VQA, vqaEval.py).

    The mean, over the annotators, of min(1, m / 3), where m is how many of the *other* annotators gave the predicted
    answer. Answers are normalised only where the annotators disagree: ten times "Yes" is not met by "yes".

    The definition asks for ten answers, and is kept for any number from two on; then 2 annotators who agree give 1/3,
    3 give 2/3, and only 4 give 1. With one answer there are no others: the prediction earns 1 if both are the same
    after normalisation, else 0.

    Args:
        prediction: the model's answer.
        answers: what the annotators answered, one or more.

    Returns:
        A fraction in [0, 1], not rounded.

    Raises:
        UserError: there is no answer to compare with.
    """
    if not answers:
        raise UserError("a question without any answer cannot be scored: leave it out, or give it an answer")
    if len(answers) == 1:
        return float(normalise(prediction) == normalise(answers[0]))
    guess, truths = strip_answer(prediction), [strip_answer(answer) for answer in answers]
    if len(set(truths)) > 1:
        guess, truths = normalise(guess), [normalise(truth) for truth in truths]
    n, matches = len(truths), truths.count(guess)
    # in thirds: leaving out one who agrees leaves m - 1 others who do, leaving out one who does not leaves all m
    thirds = matches * min(3, matches - 1) + (n - matches) * min(3, matches)
    return thirds / (3 * n)


def vqa_scores(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    answer_types: Sequence[str | None] | None = None,
    question_types: Sequence[str | None] | None = None,
) -> VQAScores:
    """Average the official accuracy over all questions and over those of each type.

    Args:
        predictions: one a question.
        answers: the annotators' answers to each question.
        answer_types: "yes/no", "number" or "other", one a question; None where unknown.
        question_types: such as "what color is the", one a question; None where unknown.

    Raises:
        UserError: the lists differ in length, or a question has no answer.
    """
    check_lengths(predictions=predictions, answers=answers)
    accuracies = [vqa_accuracy(guess, truths) for guess, truths in zip(predictions, answers, strict=True)]
    nothing = [None] * len(accuracies)
    answer_types = nothing if answer_types is None else answer_types
    question_types = nothing if question_types is None else question_types
    check_lengths(predictions=predictions, answer_types=answer_types, question_types=question_types)
    return VQAScores(mean(accuracies), mean_by(answer_types, accuracies), mean_by(question_types, accuracies))


class VQAAccuracy(ByID[VQARow, VQAScores]):
    """The official accuracy over all ranks, each question once."""

    def update(
        self,
        question_ids: Sequence[SampleID],
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        answer_types: Sequence[str | None] | None = None,
        question_types: Sequence[str | None] | None = None,
    ) -> None:
        """Judge some questions; the lists are as in ``vqa_scores``.

        Raises:
            UserError: the lists differ in length, or a question, which is named, has no answer.
        """
        nothing = [None] * len(question_ids)
        answer_types = nothing if answer_types is None else answer_types
        question_types = nothing if question_types is None else question_types
        columns = (predictions, answers, answer_types, question_types)
        check_lengths(
            question_ids=question_ids,
            predictions=predictions,
            answers=answers,
            answer_types=answer_types,
            question_types=question_types,
        )
        unanswered = [name for name, truths in zip(question_ids, answers, strict=True) if not truths]
        if unanswered:
            raise UserError(f"question {unanswered[0]!r} has no answer to compare with: leave it out, or give it one")
        rows = [
            VQARow(guess, vqa_accuracy(guess, truths), answer_type, question_type)
            for guess, truths, answer_type, question_type in zip(*columns, strict=True)
        ]
        self.add(question_ids, rows)

    def score(self, rows: dict[Key, VQARow]) -> VQAScores:
        """Average overall and by type."""
        accuracies = [row.accuracy for row in rows.values()]
        return VQAScores(
            mean(accuracies),
            mean_by((row.answer_type for row in rows.values()), accuracies),
            mean_by((row.question_type for row in rows.values()), accuracies),
        )
