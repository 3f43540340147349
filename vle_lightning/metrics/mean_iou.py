"""Mean intersection over union of semantic segmentation, from counts of pixels that are summed over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from vle_lightning.errors import UserError


class SegmentScores(NamedTuple):
    """Fractions in [0, 1]; NaN where there was nothing to judge."""

    miou: float  # mean over the classes that occur, in truth or prediction
    pixel_accuracy: float  # share of the judged pixels
    mean_accuracy: float  # mean over the classes that occur in truth of the share of their pixels
    iou: dict[str, float]  # by class; NaN of one that does not occur


def segment_scores(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> SegmentScores:
    """Score a confusion matrix as mmsegmentation does (``eval_metrics``, nan_to_num off).

    Args:
        confusion: (C, C) counts of pixels: row the true class, column the predicted one.
        classes: the C names.

    Raises:
        UserError: the counts are not as many as the classes, both ways.
    """
    if any(len(part) != len(classes) for part in (confusion, *confusion)):
        raise UserError(f"a confusion matrix of {len(classes)} classes needs as many rows and columns of counts")
    true = [sum(row) for row in confusion]
    guessed = [sum(column) for column in zip(*confusion, strict=True)]
    right = [row[number] for number, row in enumerate(confusion)]
    unions = [t + g - r for t, g, r in zip(true, guessed, right, strict=True)]
    iou = [share(r, union) for r, union in zip(right, unions, strict=True)]
    accuracy = [share(r, t) for r, t in zip(right, true, strict=True)]
    return SegmentScores(
        mean_of(iou), share(sum(right), sum(true)), mean_of(accuracy), dict(zip(classes, iou, strict=True))
    )


def share(part: int, whole: int) -> float:
    """Return part over whole; NaN of nothing."""
    return part / whole if whole else math.nan


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of those that are numbers; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


class PixelConfusion(Metric):
    """Counts which class the pixels of which class were taken for.

    Sums are reduced over ranks: evaluation shows each sample once, and fillers are left out before (`EvalSampler`).
    """

    full_state_update = False
    counts: Tensor  # (C, C) int64

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Say that computing is fine: a rank without samples is no mistake that torchmetrics should warn of."""
        return True

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count pixels: both (...) of integers, predictions in [0, C); those with a negative target are left out."""
        known = targets >= 0
        pairs = targets[known] * self.classes + predictions[known]
        self.counts += torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)

    def compute(self) -> Tensor:
        """Return the counts (C, C) of all ranks."""
        return self.counts
