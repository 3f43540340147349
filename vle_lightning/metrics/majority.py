"""The share of the most frequent class: what an answer without looking reaches."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Majority(Metric):
    """Occurrences of the most frequent class over all; NaN when nothing was counted."""

    full_state_update = False
    counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, counts: Tensor) -> None:
        """Add the occurrences (C,) of each class in one micro-batch."""
        self.counts += counts

    def compute(self) -> Tensor:
        """Return the share, ()."""
        return self.counts.max() / self.counts.sum()
