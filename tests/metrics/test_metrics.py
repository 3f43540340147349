"""Scores against arithmetic."""

from __future__ import annotations

import math

import torch

from vle_lightning.metrics.ratio import Ratio
from vle_lightning.metrics.vqa_accuracy import soft_accuracy


def test_a_ratio_sums_before_it_divides() -> None:
    ratio = Ratio()
    ratio.update(torch.tensor(1), torch.tensor(1))
    ratio.update(torch.tensor(1), torch.tensor(3))
    assert ratio.compute() == 0.5


def test_a_ratio_of_nothing_is_no_number() -> None:
    ratio = Ratio()
    ratio.update(torch.tensor(0), torch.tensor(0))
    assert math.isnan(float(ratio.compute()))


def test_the_best_answer_earns_its_credit() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 1.0]])
    targets = torch.tensor([[0.0, 0.6, 1.0], [0.0, 1.0, 0.3]])
    torch.testing.assert_close(soft_accuracy(logits, targets), torch.tensor([0.6, 0.0]))
