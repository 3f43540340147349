"""Where a model looks at what it judges: the cross-attention of its last fusion layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from vle_lightning.batch import ImageTextBatch
from vle_lightning.encoders.image import patch_grid
from vle_lightning.fusion.co_attention import watch
from vle_lightning.models.dual_stream import DualStream

BatchT = TypeVar("BatchT", bound=ImageTextBatch)


class Glance(NamedTuple):
    """What a task says of B samples, and where it looked."""

    logits: Tensor  # (B, C) float
    heat: Tensor | None  # (B, K, rows, columns), see `patch_heat`; None where the image is withheld


@torch.no_grad()
def look(model: DualStream, score: Callable[[BatchT], Tensor], batch: BatchT) -> Glance:
    """Score a batch and watch the model as it does.

    Args:
        model: the encoder of the task, in eval mode.
        score: the task's forward: logits (B, C).
        batch: B samples with K fused pairs each (VCR's choices, NLVR2's images), a sample's pairs together.

    Raises:
        ValueError: ``score`` fuses more than once, or not B * K pairs.
    """
    with watch(model.fusion) as seen:
        logits = score(batch).float()
    if len(seen) != 1 or len(seen[0]) % len(batch):
        told = ", ".join(str(len(weights)) for weights in seen) or "no"
        raise ValueError(f"a look at {len(batch)} samples needs one fusion pass over all their pairs, not {told} pairs")
    heat = patch_heat(seen[0], patch_grid(batch.pixel_values, model.config.image.patch_size))
    return Glance(logits, None if heat is None else heat.unflatten(0, (len(batch), -1)))


def patch_heat(weights: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """Return how much of the attention of the text's CLS, which the heads read, each patch gets, all heads averaged.

    Args:
        weights: (N, H, T, 1 + P + R) of N pairs, as `watch` collects them.
        grid: rows and columns of the P patches.

    Returns:
        (N, rows, columns) in [0, 1]; what is left to one went to the image's CLS and to tagged regions.
        None where the image is withheld: there are no patches.
    """
    patches = grid[0] * grid[1]
    if weights.shape[-1] < 1 + patches:
        return None
    heat: Tensor = weights[:, :, 0, 1 : 1 + patches].mean(1).unflatten(-1, grid)
    return heat
