"""Statements about an image, or about two: the samples of SNLI-VE, NLVR and NLVR2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.dataset import BatchBuilder, BatchHead
from datamodules.records import Kind
from datamodules.shards import RawSample, SampleError
from datamodules.texts import tokenise
from datamodules.transforms import View
from vle_lightning.batch import IGNORED, DataFacts, StatementBatch


@dataclass(frozen=True)
class StatementSample:
    """One statement about one image, or one pair."""

    id: str
    text: str
    target: int  # IGNORED where hidden
    group: str


class StatementBuilder(BatchBuilder[StatementSample, StatementBatch]):
    """Makes statement batches; draws nothing."""

    kind: Kind = "statements"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, classes: Sequence[str]) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.numbers = {name: number for number, name in enumerate(classes)}

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return the statement."""
        return (raw.record.statements[raw.item].text,)

    def parse(self, raw: RawSample, view: View) -> StatementSample:
        """Take a statement out of its record; an empty one, or one of another class, raises SampleError."""
        del view
        item = raw.record.statements[raw.item]
        where = f"{raw.where} ({raw.sample_id})"
        if not item.text.strip():
            raise SampleError("empty text", where)
        if item.label is not None and item.label not in self.numbers:
            raise SampleError("unknown label", f"{where}: {item.label!r} is none of {', '.join(self.numbers)}")
        target = IGNORED if item.label is None else self.numbers[item.label]
        return StatementSample(item.id, item.text, target, item.group)

    def collate(self, head: BatchHead, samples: Sequence[StatementSample], rng: np.random.Generator) -> StatementBatch:
        """Make a batch of B samples."""
        del rng
        texts = tuple(sample.text for sample in samples)
        tokens = tokenise(self.tokenizer, texts, self.max_length)
        return StatementBatch(
            **vars(head),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            texts=texts,
            targets=torch.tensor([sample.target for sample in samples]),
            statement_ids=tuple(sample.id for sample in samples),
            groups=tuple(sample.group for sample in samples),
        )


class PairBuilder(StatementBuilder):
    """Makes batches of statements about two images."""

    paired: ClassVar[bool] = True


class StatementDataModule(VisionLanguageDataModule[StatementSample, StatementBatch]):
    """Statements in classes. A subclass names its task and, where they are not true and false, the classes."""

    kind: ClassVar[Kind] = "statements"
    CLASSES: ClassVar[tuple[str, ...]] = ("true", "false")
    builder_type: ClassVar[type[StatementBuilder]] = StatementBuilder

    def __init__(self, *, classes: list[str] | None = None, **common: Any) -> None:  # noqa: ANN401 (the base's options)
        """Keep the options; nothing is read before `setup`.

        Args:
            classes: names of the labels, in the order of the model's outputs; the task's own by default.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.classes = tuple(classes or self.CLASSES)

    def check(self) -> None:
        """Check the options as the base class does, and the classes."""
        super().check()
        if len(set(self.classes)) < max(len(self.classes), 2):
            raise ValueError(f"data.classes is {list(self.classes)}; name at least two, each once")

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        return super().facts()._replace(labels=self.classes)

    def labels(self) -> list[str]:
        """Return the classes."""
        return list(self.classes)

    def builder(self) -> StatementBuilder:
        """Make what turns records into batches."""
        return self.builder_type(self.tokenizer, self.max_text_length, self.classes)
