"""Boxes as sets of patches, for MPC, PBC and VCR alike (docs/pretraining_spec.md)."""

from __future__ import annotations

import torch
from torch import Tensor

TOUCH = (
    1e-3  # overlap, in patch sides, below which an edge counts as lying on the patch border (rounding of stored boxes)
)


def box_patches(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Say which patches each box covers: all that it overlaps.

    Args:
        boxes: (..., 4) xyxy, normalised to [0, 1].
        grid: height and width of the image in patches.

    Returns:
        (..., height * width) bool, patches row by row. A box of zero area covers none.
    """
    x0, y0, x1, y1 = boxes[..., None].unbind(-2)
    rows, columns = (torch.arange(size, device=boxes.device) for size in grid)
    inside_x = (x0 * grid[1] < columns + 1 - TOUCH) & (x1 * grid[1] > columns + TOUCH)
    inside_y = (y0 * grid[0] < rows + 1 - TOUCH) & (y1 * grid[0] > rows + TOUCH)
    area = (x1 > x0) & (y1 > y0)
    return (inside_y[..., :, None] & inside_x[..., None, :]).flatten(-2) & area


def pool_patches(states: Tensor, membership: Tensor) -> Tensor:
    """Average the patch states of each region.

    Args:
        states: (B, P, D), patches only.
        membership: (B, R, P) bool.

    Returns:
        (B, R, D); zeros for a region without patches.
    """
    weights = membership.to(states.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return weights @ states
