"""Position tables of image towers, resized to another patch grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_position_table(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a table of learned positions to another grid, bicubically; the CLS row is kept.

    Source: the same resizing is used by CLIP fine-tuning codes since ViT (arXiv 2010.11929, section 3.2).

    Args:
        table: (1 + P, D) float, CLS first, then the rows of a square grid.
        grid: height and width in patches.

    Returns:
        (1 + height * width, D) in the table's dtype.

    Raises:
        ValueError: the table's patches do not form a square.
    """
    side = math.isqrt(table.shape[0] - 1)
    if side * side != table.shape[0] - 1:
        raise ValueError(f"a position table of {table.shape[0]} rows is not a CLS row and a square grid")
    if (side, side) == grid:
        return table
    patches = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    resized = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
    rows = resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1).to(table.dtype)
    return torch.cat([table[:1], rows])


def resize_bias_table(table: Tensor, side: int) -> Tensor:
    """Resize a table of relative positions, a row for each offset in a square, bicubically (METER's Swin).

    Args:
        table: (S * S, H) float.
        side: offsets a side that are asked for.

    Returns:
        (side * side, H) in the table's dtype.
    """
    source = math.isqrt(len(table))
    if source == side:
        return table
    grid = table.T.reshape(1, -1, source, source).float()
    resized = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T.to(table.dtype)
