"""VQAv2 (arXiv 1612.00837): open questions with ten annotators' answers.

For the usual way of training on "train plus most of val", val is also had in two parts: ``val_rest`` holds the
images whose id is divisible by 40, about 1,000 of 40,504, and ``val_train`` all others. ViLT, METER and VLMo
keep back 1,000 images of an unseeded shuffle, so which ones they were cannot be redone; the number is theirs.

Beside the shards of all splits lies ``answers.json``, the list of answers that a classifier chooses from: every
answer that is the most frequent one of at least nine questions of train and val together (the usual rule, arXiv
1708.02711), normalised as the official scorer does, or a given list. ViLT's and METER's lists of 3,129 are made so;
the order is ours. As they do, questions without any listed answer are left out of train and val_train; all conversions
into one folder have the same list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import Manifest
from datamodules.prepare import answers as answer_list
from datamodules.prepare.raw import Item, Order, RawDataset, clean_text
from datamodules.prepare.rows import (
    ANY,
    ID,
    TEXT,
    WHOLE,
    Field,
    Fields,
    Row,
    SkipDefect,
    distinct,
    existing_file,
    group,
    optional,
    read_rows,
    uncounted,
)
from datamodules.records import Question, Record
from vle_lightning.vqa_answers import normalise

MIN_COUNT = 9
REST_EVERY = 40  # 40,504 / 40 = 1,013 images
FOLDERS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test2015"}
FILES = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
PARTS = {"val_train": "val", "val_rest": "val"}  # splits that are parts of others
# Splits that are trained on alone, whose questions need a listed answer. val may be evaluated, and val_rest is: there
# a question without one stays, for the official score counts it.
TRAINED = ("train", "val_train")
SPLITS = (*FILES, *PARTS)
HIDDEN = ("test", "test-dev")  # splits without published answers

ANSWERS = Field(
    "a list of objects with an 'answer'",
    lambda rows: isinstance(rows, list) and all(isinstance(r, dict) and isinstance(r.get("answer"), str) for r in rows),
)
IMAGE_ID = Field("the number of a COCO image", lambda value: WHOLE.fits(value) and value >= 0)
QUESTION: Fields = {"question_id": ID, "image_id": IMAGE_ID, "question": ANY}
ANNOTATION: Fields = {
    "question_id": ID,
    "multiple_choice_answer": TEXT,
    "answers": ANSWERS,
    "answer_type": optional(TEXT),
    "question_type": optional(TEXT),
}


class Dataset(RawDataset):
    """``v2_OpenEnded_mscoco_*_questions.json``, ``v2_mscoco_*_annotations.json``, ``train2014/`` ..."""

    kind = "questions"

    def __init__(
        self, src: Path, answers: Path | None = None, answers_with_val: bool = True, keep_unlisted: bool = False
    ) -> None:
        """Take the raw folder and how to choose the answers.

        Args:
            src: Raw folder.
            answers: A JSON list of the answers to choose from; without it the frequent ones.
            answers_with_val: Count val's answers too, as ViLT and METER do.
            keep_unlisted: Keep training questions of which no answer is listed; they teach that no listed answer
                is right.

        Raises:
            FileNotFoundError: The file ``answers`` is missing.
            ValueError: It is not a list of texts.
        """
        super().__init__(src)
        self.answers = None if answers is None else answer_list.given(answers)
        self.counted = ("train", "val") if answers_with_val else ("train",)
        self.keep_unlisted = keep_unlisted
        self.trained = False  # whether training questions were read since the answers were last listed

    def check_beside(self, folder: Path, made_from: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ValueError where a training split is there that was converted with another list of answers."""
        if self.answers is None and not made_from.keys() & set(TRAINED):
            return  # leaves the list as it is
        (mine, *_) = map(listing, made_from.values())
        for split in TRAINED:
            path = folder / split / MANIFEST
            if split not in made_from and path.is_file() and (theirs := listing(Manifest.read(path).made_from)) != mine:
                raise ValueError(
                    f"{folder / split} was converted with {theirs.told}, this conversion has {mine.told}: give the "
                    "same to both, or convert both in one command (--splits)"
                )

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and archives that may hold the images."""
        folder = FOLDERS[whole_split(split)]
        return (folder, "images")

    def questions_file(self, split: str) -> Path:
        """Return where a split's questions stand."""
        return self.src / f"v2_OpenEnded_mscoco_{FILES[whole_split(split)]}_questions.json"

    def answers_file(self, split: str) -> Path | None:
        """Return where a split's answers stand; None where they are hidden."""
        whole = whole_split(split)
        return None if whole in HIDDEN else self.src / f"v2_mscoco_{FILES[whole]}_annotations.json"

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's questions, and its answers where they are published."""
        files = [self.questions_file(split), self.answers_file(split)]
        if split in TRAINED and self.answers is None:
            files += [self.answers_file(counted) for counted in self.counted]
        return tuple(existing_file(path) for path in dict.fromkeys(files) if path is not None)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a question with answers."""
        path, folder = self.questions_file(split), FOLDERS[whole_split(split)]
        self.trained = self.trained or split == "train"
        rows = distinct(read_rows(path, "questions", QUESTION, skip), "question_id", path.name, skip)
        questions = group(rows, "image_id")
        answers_file = self.answers_file(split)
        answers = None if answers_file is None else read_answers(answers_file, skip)
        listed = None if split not in TRAINED or self.keep_unlisted else frozenset(self.listed)
        for image_id in order(image_ids(questions, split)):
            found = usable_questions(questions[image_id], answers, listed, split, skip)
            if found:
                stem = f"COCO_{folder}_{image_id:012d}"
                yield Item(stem, f"{stem}.jpg", Record(image_id=f"coco/{image_id}", questions=tuple(found)))

    def finish(self, out: Path) -> None:
        """Write ``answers.json``.

        A conversion without the training split leaves a list that is there as it is, and makes one where none
        is and the training answers are at hand.
        """
        is_made, can_be_made = (out / answer_list.NAME).is_file(), all(path.is_file() for path in self.counted_files())
        if self.answers is None and not self.trained and (is_made or not can_be_made):
            return
        answer_list.write(out, self.listed)
        self.trained = False

    def counted_files(self) -> list[Path]:
        """Return the files whose answers are counted."""
        return [path for split in self.counted if (path := self.answers_file(split)) is not None]

    @cached_property
    def listed(self) -> list[str]:
        """Return the answers to choose from: those given, or else the frequent ones."""
        if self.answers is not None:
            return self.answers
        rows = (row for path in self.counted_files() for row in read_answers(path, uncounted).values())
        return answer_list.frequent((normalise(row["multiple_choice_answer"]) for row in rows), MIN_COUNT)


class Listing(NamedTuple):
    """How a conversion came by its list of answers."""

    digest: str | None  # SHA-256 of the file that was given
    with_val: bool  # or which answers were counted
    told: str


def listing(made_from: Mapping[str, Any]) -> Listing:
    """Read off a manifest's ``made_from`` how a split's answers were listed."""
    arguments = made_from.get("arguments", {})
    given, with_val = arguments.get("answers"), arguments.get("answers_with_val", True)
    if given is None:
        return Listing(None, with_val, "the frequent answers of " + ("train and val" if with_val else "train"))
    return Listing(given["sha256"], True, f"--answers {given['name']}")


def whole_split(split: str) -> str:
    """Return the official split that a split is, or is a part of.

    Raises:
        ValueError: There is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"VQAv2 has no split {split!r}, only {', '.join(SPLITS)}; give others with --splits")
    return PARTS.get(split, split)


def image_ids(ids: Iterable[int], split: str) -> list[int]:
    """Return those of the images that are in the split, sorted."""
    rest = split == "val_rest"
    return [name for name in sorted(ids) if split not in PARTS or (name % REST_EVERY == 0) == rest]


def read_answers(path: Path, skip: SkipDefect) -> dict[str, Row]:
    """Return the rows of an annotation file by question id."""
    rows = read_rows(path, "annotations", ANNOTATION, skip)
    return {str(row["question_id"]): row for row in distinct(rows, "question_id", path.name, skip)}


def usable_questions(
    rows: list[Row], answers: dict[str, Row] | None, listed: frozenset[str] | None, split: str, skip: SkipDefect
) -> list[Question]:
    """Return an image's questions with their answers; empty ones and those without answers are counted.

    Args:
        rows: Of the questions.
        answers: Rows by question id; None where they are hidden.
        listed: The answers of which a question must have one; None where it need not.
        split: For the report.
        skip: Counts the defects.
    """
    questions = []
    for row in rows:
        where = f"{split}, question {row['question_id']}"
        annotation = (answers or {}).get(str(row["question_id"]), {})
        given = tuple(clean_text(answer["answer"]) for answer in annotation.get("answers", ()))
        if not clean_text(row["question"]):
            skip("empty question", where)
        elif not given and answers is not None:
            skip("question without answers", where)
        elif listed is not None and listed.isdisjoint(given):
            skip("question without a listed answer", f"{where}: {given[0]!r}")
        else:
            types = (clean_text(annotation.get("answer_type")), clean_text(annotation.get("question_type")))
            questions.append(Question(str(row["question_id"]), clean_text(row["question"]), given, *types))
    return questions
