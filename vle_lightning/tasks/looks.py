"""Where a model looks at what it judges: what its last fusion layer, or its decoder, reads of the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from vle_lightning.batch import ImageTextBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.streams import ImageLayout

BatchT = TypeVar("BatchT", bound=ImageTextBatch)


class Glance(NamedTuple):
    """What a task says of B samples, and where it looked."""

    logits: Tensor  # (B, C) float
    heat: Tensor | None  # (B, K, rows, columns), see `patch_heat`; None where the image is masked


@torch.no_grad()
def look(model: Backbone, score: Callable[[BatchT], Tensor], batch: BatchT) -> Glance:
    """Score a batch and watch the model as it does.

    Args:
        model: the encoder of the task, in eval mode.
        score: the task's forward: logits (B, C).
        batch: B samples with K fused pairs each (VCR's choices, NLVR2's images), a sample's pairs together.

    Raises:
        ValueError: ``score`` fuses more than once, or not B * K pairs.
    """
    with model.watch() as seen:
        logits = score(batch).float()
    if len(seen) != 1 or len(seen[0]) % len(batch):
        told = ", ".join(str(len(weights)) for weights in seen) or "no"
        raise ValueError(f"a look at {len(batch)} samples needs one fusion pass over all their pairs, not {told} pairs")
    heat = patch_heat(seen[0], model.layout, batch.pixel_values)
    return Glance(logits, None if heat is None else heat.unflatten(0, (len(batch), -1)))


def patch_heat(weights: Tensor, layout: ImageLayout, pixel_values: Tensor) -> Tensor | None:
    """Return how much of the attention of the state that is pooled each patch gets, all heads averaged.

    Args:
        weights: (N, H, T, prefix + P + R) of N pairs, as `Backbone.watch` collects them.
        layout: where the P patches lie.
        pixel_values: (..., 3, H, W) of the images.

    Returns:
        (N, rows, columns) in [0, 1]; what is left to one went to the class token, to tagged regions, and under merged
        attention to the text. None where the image is masked: there are no patches.
    """
    rows, columns = layout.grid(pixel_values)
    if weights.shape[-1] < layout.prefix + rows * columns:
        return None
    states = weights[:, :, 0].mean(1)[..., None]  # (N, prefix + P + R, 1)
    heat: Tensor = layout.patches(states, pixel_values)[..., 0].unflatten(-1, (rows, columns))
    return heat
