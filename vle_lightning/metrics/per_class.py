"""Accuracy class by class, and what is mistaken for what (SNLI-VE: entailment, neutral, contradiction)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.by_id import ByID, Key, SampleID
from vle_lightning.metrics.columns import check_lengths, listed, mean


class ClassScores(NamedTuple):
    """Fractions in [0, 1]; NaN where there was no sample."""

    accuracy: float
    per_class: dict[str, float]  # of the samples that belong to the class, the share that was put there
    confusion: list[list[int]]  # (C, C) counts: row the true class, column the predicted one


def class_scores(targets: Sequence[int], predictions: Sequence[int], classes: Sequence[str]) -> ClassScores:
    """Count which class was taken for which.

    Args:
        targets: the true class of each sample, in [0, C).
        predictions: the predicted class of each sample, in [0, C).
        classes: the C names.

    Raises:
        UserError: the lists differ in length, two classes have one name, or a number is no class.
    """
    check_lengths(targets=targets, predictions=predictions)
    if len(set(classes)) < len(classes):
        raise UserError(f"the classes must have different names, not {', '.join(classes)}")
    check_classes(range(len(targets)), targets, predictions, len(classes))
    confusion = [[0] * len(classes) for _ in classes]
    for target, prediction in zip(targets, predictions, strict=True):
        confusion[target][prediction] += 1
    per_class = {
        name: row[number] / sum(row) if any(row) else math.nan
        for number, (name, row) in enumerate(zip(classes, confusion, strict=True))
    }
    return ClassScores(mean(t == p for t, p in zip(targets, predictions, strict=True)), per_class, confusion)


def check_classes(
    sample_ids: Sequence[SampleID], targets: Sequence[int], predictions: Sequence[int], classes: int
) -> None:
    """Refuse numbers that are no class, such as the -1 of a sample without a label.

    Raises:
        UserError: names the first sample that has one.
    """
    for sample, target, prediction in zip(sample_ids, targets, predictions, strict=True):
        for name, number in (("target", target), ("prediction", prediction)):
            if not 0 <= number < classes:
                raise UserError(f"{name} {number} of sample {sample!r} is none of the {classes} classes, from 0")


class ClassAccuracy(ByID[tuple[int, int], ClassScores]):
    """Accuracy, per-class accuracy and confusion counts over all ranks, each sample once."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Score the classes of these names, C of them."""
        super().__init__()
        self.classes = tuple(classes)

    def update(
        self, sample_ids: Sequence[SampleID], targets: Sequence[int] | Tensor, predictions: Sequence[int] | Tensor
    ) -> None:
        """Take in B samples: true and predicted classes, lists or tensors (B,) of integers in [0, C).

        Raises:
            UserError: the lists differ in length, or a number is no class; the sample is named.
        """
        truths, guesses = listed(targets), listed(predictions)
        check_lengths(sample_ids=sample_ids, targets=truths, predictions=guesses)
        check_classes(sample_ids, truths, guesses, len(self.classes))
        self.add(sample_ids, zip(truths, guesses, strict=True))

    def score(self, rows: dict[Key, tuple[int, int]]) -> ClassScores:
        """Count over the union."""
        return class_scores([row[0] for row in rows.values()], [row[1] for row in rows.values()], self.classes)
