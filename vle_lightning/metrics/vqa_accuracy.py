"""The soft accuracy that VQA models are trained towards (VQA, arXiv 1505.00468, section 3)."""

from __future__ import annotations

from torch import Tensor


def soft_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Score the best answer of each question.

    Args:
        logits: (B, C).
        targets: (B, C) float in [0, 1], the credit of each answer.

    Returns:
        (B,) float in [0, 1].
    """
    return targets.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
