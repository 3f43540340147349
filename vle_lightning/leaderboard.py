"""``python -m vle_lightning vcr-leaderboard Q2A_RUN QA2R_RUN --out FILE.csv``: VCR's test predictions as it asks for.

A line a question: the probabilities of the four answers, then those of the four rationales given each answer in turn
(visualcommonsense.com/leaderboard). First each run predicts the split, the second given every answer::

    python -m vle_lightning predict --config q2a.yaml --data.predict_split test
    python -m vle_lightning predict --config qa2r.yaml --data.predict_split test --data.conditions all
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vle_lightning.errors import UserError
from vle_lightning.files import write_text
from vle_lightning.inference.commands import OneSentenceParser

CHOICES = 4
TOLERANCE = 1e-3  # of a sum of four probabilities, before they are scaled to sum to one
MAX_NAMED = 5
HEADER = (
    "annot_id",
    *(f"answer_{choice}" for choice in range(CHOICES)),
    *(f"rationale_conditioned_on_a{given}_{choice}" for given in range(CHOICES) for choice in range(CHOICES)),
)
Blocks = list[list[float]]  # of four probabilities each: one of answers, four of rationales


def run_leaderboard(arguments: Sequence[str]) -> int:
    """Join two runs' predictions into the official CSV; return the exit code.

    Raises:
        UserError: predictions are missing, of another form, or of different questions.
    """
    parser = OneSentenceParser("python -m vle_lightning vcr-leaderboard", description="Write VCR's leaderboard file.")
    parser.add_argument("q2a_run", type=Path, help="run folder, or predictions.json, of Q->A")
    parser.add_argument("qa2r_run", type=Path, help="the same of QA->R with data.conditions all")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        raise UserError(f"--out {options.out} is a folder; name a file, such as {options.out / 'vcr.csv'}")
    answers = read_blocks(options.q2a_run, blocks=1)
    rationales = read_blocks(options.qa2r_run, blocks=CHOICES)
    write_text(options.out, leaderboard_csv(answers, rationales))
    print(f"{options.out}: {len(answers)} questions")
    return 0


def read_blocks(run: Path, blocks: int) -> dict[str, Blocks]:
    """Read the probabilities of each question of a run.

    Args:
        run: run folder, or its predictions.json.
        blocks: how many times four probabilities a question has: 1 of answers, 4 of rationales.

    Returns:
        For each annot_id its blocks, each scaled to sum to one.

    Raises:
        UserError: the file is missing, of another form, or has a question twice.
    """
    file = run / "predictions.json" if run.is_dir() else run
    if not file.is_file():
        raise UserError(f"{file}: no such file; `python -m vle_lightning predict` writes it")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); predict again") from error
    found: dict[str, Blocks] = {}
    twice = []
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, dict) or not {"question_id", "probabilities"} <= row.keys():
            raise UserError(f"{file}: rows with question_id and probabilities are needed; is this a run of VCR?")
        question = str(row["question_id"])
        if question in found:
            twice.append(question)
        found[question] = checked_blocks(row["probabilities"], blocks, f"{file}, question {question}")
    if twice:
        raise UserError(f"{file}: {some(twice)} come twice; predict one split of one source (data.val_sources)")
    return found


def checked_blocks(probabilities: Any, blocks: int, where: str) -> Blocks:  # noqa: ANN401 (from a file)
    """Return the blocks of a question, each scaled to sum to one.

    Raises:
        UserError: there are not so many blocks, or one is no distribution over four choices.
    """
    is_nested = isinstance(probabilities, list) and all(isinstance(block, list) for block in probabilities)
    found = probabilities if is_nested else [probabilities]
    if len(found) != blocks:
        wanted = "rationales given each answer (predict with --data.conditions all)" if blocks > 1 else "answers alone"
        raise UserError(f"{where}: the probabilities of {wanted} are needed")
    for block in found:
        usable = isinstance(block, list) and len(block) == CHOICES and all(map(is_probability, block))
        if not usable or abs(math.fsum(block) - 1) > TOLERANCE:
            raise UserError(f"{where}: {block} are not {CHOICES} probabilities that sum to one; predict again")
    return [[share / math.fsum(block) for share in block] for block in found]


def is_probability(value: object) -> bool:
    """Return whether a value is a number in [0, 1]."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def leaderboard_csv(answers: Mapping[str, Blocks], rationales: Mapping[str, Blocks]) -> str:
    """Lay answers and rationales of each question side by side, test-9 before test-10.

    Raises:
        UserError: a question is missing on one side.
    """
    for side, here, there in (("Q->A", answers, rationales), ("QA->R", rationales, answers)):
        if missing := sorted(there.keys() - here.keys(), key=by_number):
            raise UserError(f"{some(missing)} are missing in the predictions of {side}; predict both on the same split")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for question in sorted(answers, key=by_number):
        writer.writerow([question, *(share for block in answers[question] + rationales[question] for share in block)])
    return text.getvalue()


def by_number(question: str) -> tuple[int, str]:
    """Return what sorts ids of one form by their numbers."""
    return len(question), question


def some(questions: Sequence[str]) -> str:
    """Name the first few of many questions."""
    more = ", ..." if len(questions) > MAX_NAMED else ""
    return f"{len(questions)} questions ({', '.join(questions[:MAX_NAMED])}{more})"
