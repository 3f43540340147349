"""VQAv2 (arXiv 1612.00837): open questions with ten annotators' answers.

Beside the shards of all splits lies ``answers.json``, the list of answers that a classifier chooses from:
every answer that occurs at least nine times among the training questions' most frequent ones (the usual rule,
arXiv 1708.02711, which gives 3,129 on the whole set), or a given list.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.prepare.raw import (
    Item,
    Order,
    RawDataset,
    Row,
    SkipDefect,
    clean_text,
    group,
    read_json,
    read_rows,
)
from datamodules.records import Question, Record

MIN_COUNT = 9
YEARS = {"train": "2014", "val": "2014", "test": "2015", "test-dev": "2015"}
IMAGE_SPLITS = {"test-dev": "test"}  # its images are some of test's
HIDDEN = ("test", "test-dev")  # splits without published answers


class Dataset(RawDataset):
    """``v2_OpenEnded_mscoco_*_questions.json``, ``v2_mscoco_*_annotations.json``, ``train2014/`` ..."""

    kind = "questions"

    def __init__(self, src: Path, answers: Path | None = None) -> None:
        """Take the raw folder and, if wanted, the answer list.

        Args:
            src: Raw folder.
            answers: A JSON list of the answers to choose from; without it the frequent ones of training.
        """
        super().__init__(src)
        self.answers = answers
        self.counts: Counter[str] = Counter()  # of the training split's most frequent answers

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and tars that may hold the images."""
        folder = image_folder(split)
        return (folder, "images", f"{folder}.tar", "images.tar")

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a question with answers."""
        name = f"mscoco_{split}{YEARS[split]}"
        questions_file = self.src / f"v2_OpenEnded_{name}_questions.json"
        questions = group(read_rows(questions_file, "questions", ("question_id", "image_id", "question")), "image_id")
        answers = {} if split in HIDDEN else read_answers(self.src / f"v2_{name}_annotations.json")
        if split == "train":
            self.counts = Counter(str(row["multiple_choice_answer"]) for row in answers.values())
        for image_id in order(sorted(questions)):
            found = usable_questions(questions[image_id], answers, split, skip)
            if found:
                stem = f"COCO_{image_folder(split)}_{image_id:012d}"
                yield Item(stem, f"{stem}.jpg", Record(image_id=f"coco/{image_id}", questions=tuple(found)))

    def finish(self, out: Path) -> None:
        """Write ``answers.json``, the most frequent first; without a training split the old one stays."""
        path = out / "answers.json"
        if self.answers is not None:
            chosen = read_json(self.answers)
            if not isinstance(chosen, list) or not all(isinstance(answer, str) for answer in chosen):
                raise ValueError(f"{self.answers}: a JSON list of answers is needed (--answers)")
        elif self.counts:
            ranked = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))
            chosen = [answer for answer, count in ranked if count >= MIN_COUNT]
        else:
            return
        path.write_text(json.dumps(chosen, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def image_folder(split: str) -> str:
    """Return the name of the folder with a split's images, which is also part of their names.

    Raises:
        ValueError: There is no such split.
    """
    if split not in YEARS:
        raise ValueError(f"VQAv2 has no split {split!r}, only {', '.join(YEARS)}; give others with --splits")
    return f"{IMAGE_SPLITS.get(split, split)}{YEARS[split]}"


def read_answers(path: Path) -> dict[Any, Row]:
    """Return the rows of an annotation file by question id."""
    fields = ("question_id", "multiple_choice_answer", "answers")
    return {row["question_id"]: row for row in read_rows(path, "annotations", fields)}


def usable_questions(rows: list[Row], answers: dict[Any, Row], split: str, skip: SkipDefect) -> list[Question]:
    """Return an image's questions with their answers; empty ones and those without answers are counted."""
    questions = []
    for row in rows:
        where = f"{split}, question {row['question_id']}"
        annotation = answers.get(row["question_id"], {})
        given = tuple(clean_text(answer["answer"]) for answer in annotation.get("answers", ()))
        if not clean_text(row["question"]):
            skip("empty question", where)
        elif not given and split not in HIDDEN:
            skip("question without answers", where)
        else:
            types = (str(annotation.get("answer_type", "")), str(annotation.get("question_type", "")))
            questions.append(Question(str(row["question_id"]), clean_text(row["question"]), given, *types))
    return questions
