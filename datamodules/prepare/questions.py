"""One's own questions: ``SPLIT.jsonl``, a question a line, and the images.

A line is ``{"question_id": 7, "image": "images/a.jpg", "question": "What is this?", "answers": ["a dog", "dog"]}``;
"answers" may be a single text, and stay away in splits whose names begin with "test". Optional: "answer_type" and
"question_type", texts that scores are told apart by. Image names are paths below the raw folder, or members of
``images.tar`` or ``images.zip``.

Who has no validation split, or wants to report the one there is, holds training images out: with
``--hold_out dev=0.1 --splits train dev val`` the split dev gets all questions of a tenth of the images of
``train.jsonl``, and train the others. The images whose names hash lowest are taken, so that none is in both splits,
and the choice depends on the names alone.

Beside the shards of all splits lies ``answers.json``, the answers that a classifier chooses from: all that
at least ``--min_count`` training questions have. Its default of 1 leaves no training question without an answer.
Answers are compared as they stand ("Yes" is not "yes"): write each in one way, or convert with ``--lower_case true``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare import answers as answer_list
from datamodules.prepare.raw import Item, Order, RawDataset, clean_text
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    ID,
    TEXT,
    Field,
    Fields,
    Row,
    SkipDefect,
    distinct,
    existing_file,
    group,
    optional,
    read_lines,
    uncounted,
)
from datamodules.records import Question, Record

TEXTS = Field(
    "a text or a list of texts",
    lambda value: isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value)),
)
FIELDS: Fields = {
    "question_id": ID,
    "image": FILE_NAME,
    "question": ANY,
    "answers": optional(TEXTS),
    "answer_type": optional(TEXT),
    "question_type": optional(TEXT),
}
TRAIN = "train"
HIDDEN = "test"  # splits of this name, or that begin with it, may hide their answers


class HeldOut(NamedTuple):
    """Which split gets images of the training file, and what share of them, in (0, 1)."""

    split: str
    share: float


class Dataset(RawDataset):
    """``SPLIT.jsonl``, and the images below the raw folder or in an archive."""

    kind = "questions"

    def __init__(
        self,
        src: Path,
        min_count: int = 1,
        answers: Path | None = None,
        hold_out: str | None = None,
        lower_case: bool = False,
    ) -> None:
        """Take the raw folder and how to choose the answers.

        Args:
            src: Raw folder.
            min_count: How many training questions must have an answer for it to be listed.
            answers: A JSON list of the answers to choose from; without it those of training.
            hold_out: SPLIT=SHARE: this split is made of that share of the training images.
            lower_case: Write the answers in lower case.

        Raises:
            FileNotFoundError: The file ``answers`` is missing.
            ValueError: ``min_count`` is below 1, ``answers`` is not a list of texts, or ``hold_out`` makes no sense.
        """
        super().__init__(src)
        if min_count < 1:
            raise ValueError(f"--min_count is {min_count}; it must be at least 1")
        self.min_count, self.lower_case = min_count, lower_case
        self.answers = None if answers is None else answer_list.given(answers)
        self.held_out = None if hold_out is None else parse_hold_out(hold_out, src)
        self.trained = False  # whether training questions were read since the answers were last listed

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the raw folder itself and what may lie in it."""
        return (".", "images")

    def check_splits(self, splits: Sequence[str]) -> None:
        """Make sure that training and held-out images are told apart by one command.

        Raises:
            ValueError: One of the two splits is not among ``splits``.
        """
        if self.held_out is not None and not {TRAIN, self.held_out.split} <= set(splits):
            raise ValueError(
                f"--hold_out {self.held_out.split}={self.held_out.share} takes images out of {TRAIN}: name both in "
                f"--splits (they are {', '.join(splits)}), so that no image is in both"
            )

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's one file."""
        is_held_out = self.held_out is not None and split == self.held_out.split
        return (existing_file(self.src / f"{TRAIN if is_held_out else split}.jsonl"),)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a usable question."""
        (path,) = self.annotation_files(split)
        self.trained = self.trained or split == TRAIN
        images = group(distinct(read_lines(path, FIELDS, skip), "question_id", path.name, skip), "image")
        if self.held_out is not None and split in (TRAIN, self.held_out.split):
            apart = lowest(images, self.held_out.share)
            images = {image: rows for image, rows in images.items() if (image in apart) == (split != TRAIN)}
        keys = {image: f"{number:08d}" for number, image in enumerate(sorted(images))}  # a.jpg and a.png both get one
        for image in order(sorted(images)):
            found = (usable_question(row, split, path.name, skip) for row in images[image])
            questions = tuple(self.written(question) for question in found if question is not None)
            if questions:
                yield Item(keys[image], image, Record(f"questions/{image}", questions=questions))

    def finish(self, out: Path) -> None:
        """Write ``answers.json``.

        A conversion without the training split leaves a list that is there as it is, and makes one where none
        is and the training questions are at hand.
        """
        path = self.src / f"{TRAIN}.jsonl"
        if self.answers is not None:
            answer_list.write(out, self.answers)
        elif self.trained or (path.is_file() and not (out / answer_list.NAME).is_file()):
            questions = map(self.written, training_questions(path, self.held_out))
            different = (answer for question in questions for answer in dict.fromkeys(question.answers))
            answer_list.write(out, answer_list.frequent(different, self.min_count))
            self.trained = False

    def written(self, question: Question) -> Question:
        """Return a question as it goes into its record."""
        if not self.lower_case:
            return question
        return replace(question, answers=tuple(answer.lower() for answer in question.answers))


def parse_hold_out(given: str, src: Path) -> HeldOut:
    """Read SPLIT=SHARE.

    Raises:
        ValueError: It is none, or the split has a file of its own.
    """
    match = re.fullmatch(r"([\w.-]+)=(0?\.\d+)", given)
    if match is None or float(match[2]) == 0:
        raise ValueError(f"--hold_out is {given!r}; name a split and its share of the training images: dev=0.1")
    if match[1] == TRAIN or (src / f"{match[1]}.jsonl").exists():
        raise ValueError(f"--hold_out {given}: {src / match[1]}.jsonl is a split of its own; choose another name")
    return HeldOut(match[1], float(match[2]))


def lowest(images: Collection[str], share: float) -> set[str]:
    """Return the given share of the images, at least one: those whose names have the lowest hashes."""
    ranked = sorted(images, key=lambda image: (hashlib.sha256(image.encode()).digest(), image))
    return set(ranked[: max(1, round(share * len(ranked)))])


def training_questions(path: Path, held_out: HeldOut | None) -> Iterator[Question]:
    """Yield each usable training question that is not held out."""
    rows = list(distinct(read_lines(path, FIELDS, uncounted), "question_id", path.name, uncounted))
    apart = lowest({row["image"] for row in rows}, held_out.share) if held_out else set()
    for row in (row for row in rows if row["image"] not in apart):
        question = usable_question(row, TRAIN, path.name, uncounted)
        if question is not None:
            yield question


def usable_question(row: Row, split: str, where: str, skip: SkipDefect) -> Question | None:
    """Return a row's question; None, counted, if it or its answers are missing."""
    at = f"{where}, question {row['question_id']}"
    raw = row.get("answers")
    given = [raw] if isinstance(raw, str) else raw or []
    answers = tuple(answer for text in given if (answer := clean_text(text)))
    question = clean_text(row["question"])
    if not question:
        skip("empty question", at)
    elif not answers and (raw is not None or not split.startswith(HIDDEN)):
        skip("question without answers", at)
    else:
        types = clean_text(row.get("answer_type")), clean_text(row.get("question_type"))
        return Question(str(row["question_id"]), question, answers, *types)
    return None
