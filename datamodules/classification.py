"""Image classification: images of one class each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch

from datamodules.class_list import ClassListDataModule
from datamodules.dataset import BatchBuilder, BatchHead
from datamodules.records import Kind
from datamodules.shards import RawSample, SampleError
from datamodules.transforms import View
from vle_lightning.batch import IGNORED, LabelBatch


class LabelBuilder(BatchBuilder[int, LabelBatch]):
    """Makes batches of classes; draws nothing."""

    kind: Kind = "labels"

    def __init__(self, classes: Sequence[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(classes)}

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return the name of the class, which may say left or right."""
        label = raw.record.labels[raw.item].label
        return () if label is None else (label,)

    def parse(self, raw: RawSample, view: View) -> int:
        """Take the number of the class out of a record; one that the list of classes lacks raises SampleError."""
        del view
        label = raw.record.labels[raw.item].label
        if label is not None and label not in self.numbers:
            raise SampleError("unknown label", f"{raw.where} ({raw.sample_id}): {label!r} is not in data.classes")
        return IGNORED if label is None else self.numbers[label]

    def collate(self, head: BatchHead, samples: Sequence[int], rng: np.random.Generator) -> LabelBatch:
        """Make a batch of B samples."""
        del rng
        return LabelBatch(**vars(head), targets=torch.tensor(samples))


class ClassificationDataModule(ClassListDataModule[int, LabelBatch]):
    """Images with a class out of a list."""

    task: ClassVar[str] = "classification"
    kind: ClassVar[Kind] = "labels"

    def builder(self) -> LabelBuilder:
        """Make what turns records into batches."""
        return LabelBuilder(self.labels())


DataModule = ClassificationDataModule
