"""Shares that are summed before they are divided, so that every decision counts once on any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Ratio(Metric):
    """Sum of hits over sum of totals; NaN when nothing was counted.

    Accuracy (right over judged), intersection over union, a mean (sum over count): all are such shares.
    """

    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, hits: Tensor, total: Tensor) -> None:
        """Add hits () and total () of one micro-batch."""
        self.hits += hits
        self.total += total

    def compute(self) -> Tensor:
        """Return hits over total, ()."""
        return self.hits / self.total
