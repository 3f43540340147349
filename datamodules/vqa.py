"""Visual question answering: questions with soft scores of a fixed set of answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.dataset import BatchBuilder, BatchHead
from datamodules.records import Kind, Question
from datamodules.shards import RawSample, SampleError
from datamodules.texts import tokenise
from datamodules.transforms import View
from vle_lightning.batch import DataFacts, Skip, VQABatch

CREDIT = 0.3  # for each annotator who gave the answer, 1 at most (VQAv2's training targets, as in ViLT and METER)
SURE = 1.0  # for the answer of a question's only annotator, which is all that the official accuracy asks for then


@dataclass(frozen=True)
class VQASample:
    """One question on one image."""

    question: Question
    targets: NDArray[np.float32]  # (C,)
    where: str


class VQABuilder(BatchBuilder[VQASample, VQABatch]):
    """Makes question batches; draws nothing."""

    kind: Kind = "questions"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, answers: Sequence[str]) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.numbers = {answer: number for number, answer in enumerate(answers)}

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return question and answers."""
        question = raw.record.questions[raw.item]
        return (question.question, *question.answers)

    def parse(self, raw: RawSample, view: View) -> VQASample:
        """Take a question out of its record; an empty one raises SampleError."""
        del view
        item, where = raw.record.questions[raw.item], f"{raw.where} ({raw.sample_id})"
        if not item.question.strip():
            raise SampleError("empty text", where)
        return VQASample(item, self.credits(item.answers), where)

    def credits(self, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return the credit (C,) of each known answer; an answer that is not in the list gives none."""
        credit = SURE if len(answers) == 1 else CREDIT
        targets = np.zeros(len(self.numbers), dtype=np.float32)
        for answer, count in Counter(answers).items():
            if answer in self.numbers:
                targets[self.numbers[answer]] = min(1.0, credit * count)
        return targets

    def collate(self, head: BatchHead, samples: Sequence[VQASample], rng: np.random.Generator) -> VQABatch:
        """Make a batch of B samples.

        A question whose answers are all outside the list stays, with targets of zero: it teaches that no listed
        answer is right, and the official score counts it. It is reported in ``skipped``. ViLT and METER train on no
        such questions; the converter of VQAv2 leaves them out of the training splits.
        """
        del rng
        questions = [sample.question for sample in samples]
        texts = tuple(question.question for question in questions)
        tokens = tokenise(self.tokenizer, texts, self.max_length)
        outside = tuple(
            Skip("answer outside data.answers", f"{sample.where}: {sample.question.answers[0]!r}", lost=False)
            for sample, valid in zip(samples, head.valid.tolist(), strict=True)
            if valid and sample.question.answers and not sample.targets.any()
        )
        return VQABatch(
            **{**vars(head), "skipped": head.skipped + outside},
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            texts=texts,
            targets=torch.from_numpy(np.stack([sample.targets for sample in samples])),
            question_ids=tuple(question.id for question in questions),
            answers=tuple(question.answers for question in questions),
            answer_types=tuple(question.answer_type for question in questions),
            question_types=tuple(question.question_type for question in questions),
        )


class VQADataModule(VisionLanguageDataModule[VQASample, VQABatch]):
    """Questions with answers out of a list."""

    task: ClassVar[str] = "vqa"
    kind: ClassVar[Kind] = "questions"

    def __init__(self, *, answers: Path, **common: Any) -> None:  # noqa: ANN401 (the options of the base class)
        """Keep the options; nothing is read before `setup`.

        Args:
            answers: JSON list of the C answers to choose from.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.answer_file = Path(answers)

    def check(self) -> None:
        """Check the options as the base class does, and the answers."""
        super().check()
        self.answers()

    def answers(self) -> list[str]:
        """Return the answers.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not JSON list of different strings.
        """
        where = f"data.answers {self.answer_file}"
        if not self.answer_file.is_file():
            raise FileNotFoundError(f"{where}: no such file; python -m datamodules.prepare vqav2 writes answers.json")
        try:
            answers = json.loads(self.answer_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{where} must be a JSON list of answers")
        if len(set(answers)) < len(answers):
            twice = next(answer for answer, count in Counter(answers).items() if count > 1)
            raise ValueError(f"{where}: {twice!r} occurs twice")
        return answers

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        return super().facts()._replace(answers=len(self.answers()))

    def labels(self) -> list[str]:
        """Return the answers."""
        return self.answers()

    def builder(self) -> VQABuilder:
        """Make what turns records into batches."""
        return VQABuilder(self.tokenizer, self.max_text_length, self.answers())


DataModule = VQADataModule
