"""VCR's three scores (arXiv 1811.10830, section 3): Q->A, QA->R, and Q->AR, where both must be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.by_id import ByID, Key, SampleID
from vle_lightning.metrics.columns import check_lengths, listed, mean

Side = Literal["answer", "rationale"]
MAX_NAMED = 5


class JointScores(NamedTuple):
    """Fractions in [0, 1]; NaN where there was no question."""

    q2a: float
    qa2r: float
    q2ar: float


def joint_scores(
    answer_ids: Sequence[SampleID],
    answer_right: Sequence[bool],
    rationale_ids: Sequence[SampleID],
    rationale_right: Sequence[bool],
) -> JointScores:
    """Join the two halves of VCR by question.

    Args:
        answer_ids: the questions of Q->A, each once, in any order.
        answer_right: whether the right answer was chosen.
        rationale_ids: the questions of QA->R, the same ones, in any order.
        rationale_right: whether, given the right answer, the right rationale was chosen.

    Raises:
        UserError: a question comes twice, or is missing on one side; the message names it.
    """
    answers = by_question("answer", answer_ids, answer_right)
    rationales = by_question("rationale", rationale_ids, rationale_right)
    for side, here, there in (("answer", answers, rationales), ("rationale", rationales, answers)):
        missing = sorted(there.keys() - here.keys(), key=str)
        if missing:
            some = ", ".join(map(repr, missing[:MAX_NAMED]))
            raise UserError(
                f"Q->AR needs both halves of a question, but {len(missing)} of {len(there)} questions have no {side}: "
                f"{some}{', ...' if len(missing) > MAX_NAMED else ''}. Predict Q->A and QA->R on the same split"
            )
    both = [answers[question] and rationales[question] for question in answers]
    return JointScores(mean(answers.values()), mean(rationales.values()), mean(both))


def by_question(side: Side, question_ids: Sequence[SampleID], right: Sequence[bool]) -> dict[SampleID, bool]:
    """Key the decisions of one side by question.

    Raises:
        UserError: the lists differ in length, or a question comes twice.
    """
    check_lengths(question_ids=question_ids, right=right)
    hits: dict[SampleID, bool] = {}
    for question, hit in zip(question_ids, right, strict=True):
        if question in hits:
            raise UserError(f"question {question!r} comes twice among the {side}s: keep one of them")
        hits[question] = bool(hit)
    return hits


class JointAccuracy(ByID[bool, JointScores]):
    """Q->A, QA->R and Q->AR over all ranks; the two sides of a question may come at different times and ranks."""

    def update(self, side: Side, question_ids: Sequence[SampleID], right: Sequence[bool] | Tensor) -> None:
        """Take in one side of B questions: whether each was judged right, a list or a tensor (B,) bool.

        Raises:
            UserError: the lists differ in length, or there is no such side.
        """
        if side not in ("answer", "rationale"):
            raise UserError(f"side is {side!r}; it is answer (Q->A) or rationale (QA->R)")
        hits = [bool(hit) for hit in listed(right)]
        check_lengths(question_ids=question_ids, right=hits)
        self.add([(side, question) for question in question_ids], hits)

    def score(self, rows: dict[Key, bool]) -> JointScores:
        """Join the sides of the union."""
        sides: dict[str, dict[SampleID, bool]] = {"answer": {}, "rationale": {}}
        for key, hit in rows.items():
            assert isinstance(key, tuple)  # as update makes them
            sides[key[0]][key[1]] = hit
        answers, rationales = sides["answer"], sides["rationale"]
        return joint_scores([*answers], [*answers.values()], [*rationales], [*rationales.values()])
