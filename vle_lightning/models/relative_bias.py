"""VLMo's relative position bias: one table for images, texts and pairs (arXiv 2111.02358; BEiT's layout for images).

A table has a row for each relation of a query to a key, and a column for each head of each layer:

| rows | relation |
|---|---|
| (2w - 1)^2 | patch to patch, by offset in a grid of w x w |
| 3 | image class token to patch, patch to it, it to itself |
| 2 | text to image, image to text |
| 2M - 3 | text token to text token behind the first, by offset; M is the longest text that the table knows |
| 3 | first text token to another, another to it, it to itself |
"""

from __future__ import annotations

import torch
from torch import Tensor

CLASS_ROWS = 3  # class token to others, others to it, it to itself


def table_rows(window: int, text_positions: int) -> int:
    """Return the rows of a table for w x w patches and texts of at most M tokens."""
    return image_rows(window) + 2 * text_positions + 2


def image_rows(window: int) -> int:
    """Return how many of the rows are BEiT's: of patches and the class token."""
    return (2 * window - 1) ** 2 + CLASS_ROWS


def image_index(window: int) -> Tensor:
    """Return the row of each query and key among class token and patches, row by row: (1 + P, 1 + P) int64."""
    rows = image_rows(window)
    y, x = (places.flatten() for places in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    index = torch.empty(1 + window**2, 1 + window**2, dtype=torch.long)
    down, right = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    index[1:, 1:] = down * (2 * window - 1) + right
    index[0], index[:, 0], index[0, 0] = rows - 3, rows - 2, rows - 1
    return index


def text_index(window: int, tokens: int, text_positions: int) -> Tensor:
    """Return the row of each query and key among T tokens, the first one CLS: (T, T) int64."""
    first, last = image_rows(window) + 2, table_rows(window, text_positions)
    places = torch.arange(tokens)
    index = places - places[:, None] + text_positions - 2 + first
    index[0], index[:, 0], index[0, 0] = last - 3, last - 2, last - 1
    return index


def joint_index(window: int, tokens: int, text_positions: int) -> Tensor:
    """Return the row of each query and key among T tokens and then class token and patches: (T + N, T + N) int64."""
    image, text = image_index(window), text_index(window, tokens, text_positions)
    across = torch.full((tokens, len(image)), image_rows(window))
    back = torch.full((len(image), tokens), image_rows(window) + 1)
    return torch.cat([torch.cat([text, across], 1), torch.cat([back, image], 1)])


def resize_bias_table(table: Tensor, window: int, target: int) -> Tensor:
    """Resize the rows of patches to another grid, as VLMo and BEiT do; all others are kept.

    Offsets near zero keep their resolution: the source's offsets are placed at growing distances, a geometric sequence
    that spans the target's, and a cubic spline through them is read at the target's.

    Args:
        table: (rows, L * H) float.
        window: patches a side that the table is made for.
        target: patches a side that are asked for.

    Returns:
        (rows of the target, L * H) in the table's dtype.

    Raises:
        ValueError: the target is smaller: VLMo defines no way back.
    """
    if target == window:
        return table
    if target < window:
        raise ValueError(
            f"a relative position table of {window} x {window} patches cannot shrink to {target} x {target}"
        )
    side, wanted = 2 * window - 1, 2 * target - 1
    weights = spline_weights(_geometric(side, wanted), torch.arange(wanted, dtype=torch.float64) - wanted // 2)
    grid = table[: side**2].double().view(side, side, -1)
    resized = torch.einsum("ai,ijc,bj->abc", weights.to(grid.device), grid, weights.to(grid.device))
    return torch.cat([resized.reshape(wanted**2, -1).to(table.dtype), table[side**2 :]])


def _geometric(side: int, wanted: int) -> Tensor:
    """Place the source's offsets so that the outermost meet the target's: (side,) float64."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        middle = (low + high) / 2
        if sum(middle**power for power in range(side // 2)) > wanted // 2:
            high = middle
        else:
            low = middle
    distances = torch.cumsum(torch.tensor([low**power for power in range(side // 2)], dtype=torch.float64), 0)
    return torch.cat([-distances.flip(0), distances.new_zeros(1), distances])


def spline_weights(knots: Tensor, points: Tensor) -> Tensor:
    """Return the linear map from values at knots to a cubic spline's values at points, with not-a-knot ends.

    Args:
        knots: (n,) float64, rising; n >= 4.
        points: (m,) float64; those outside of the knots are moved to the nearest one.

    Returns:
        (m, n) float64.
    """
    count, gaps = len(knots), knots.diff()
    system, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, count, dtype=torch.float64)
    for i in range(1, count - 1):
        system[i, i - 1], system[i, i], system[i, i + 1] = gaps[i - 1], 2 * (gaps[i - 1] + gaps[i]), gaps[i]
        right[i, i - 1], right[i, i + 1] = 6 / gaps[i - 1], 6 / gaps[i]
        right[i, i] = -right[i, i - 1] - right[i, i + 1]
    system[0, :3] = torch.stack([gaps[1], -(gaps[0] + gaps[1]), gaps[0]])  # equal third derivatives at the second knot
    system[-1, -3:] = torch.stack([gaps[-1], -(gaps[-1] + gaps[-2]), gaps[-2]])
    curvature: Tensor = torch.linalg.solve(system, right)  # second derivatives at the knots, of the values
    points = points.clamp(knots[0], knots[-1])
    left = (torch.searchsorted(knots, points, right=True) - 1).clamp(0, count - 2)
    gap, before, after = gaps[left], points - knots[left], knots[left + 1] - points
    values = torch.eye(count, dtype=torch.float64)
    weights: Tensor = (
        curvature[left] * ((after**3 / gap - after * gap) / 6)[:, None]
        + curvature[left + 1] * ((before**3 / gap - before * gap) / 6)[:, None]
        + values[left] * (after / gap)[:, None]
        + values[left + 1] * (before / gap)[:, None]
    )
    return weights
