"""Boxes as sets of patches."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.models.regions import box_patches, pool_patches

GRID = (3, 4)


def patches_of(*box: float) -> list[int]:
    return box_patches(torch.tensor(box), GRID).nonzero().flatten().tolist()


def test_a_box_covers_every_patch_that_it_overlaps() -> None:
    assert patches_of(0.3, 0.4, 0.6, 0.6) == [5, 6]  # columns 1.2-2.4, rows 1.2-1.8
    assert patches_of(0.0, 0.0, 1.0, 1.0) == list(range(12))
    assert patches_of(0.9, 0.9, 1.0, 1.0) == [11]


def test_an_edge_on_a_patch_border_does_not_cover_the_next_patch() -> None:
    assert patches_of(0.25, 0.33333, 0.5, 0.66667) == [5]  # stored boxes are rounded to five decimals


def test_a_box_of_no_area_or_outside_covers_nothing() -> None:
    assert patches_of(0.5, 0.5, 0.5, 0.9) == []
    assert patches_of(1.2, 0.1, 1.4, 0.5) == []


@given(
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    extent=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_patches_run_from_the_floor_of_the_near_edge_to_the_ceiling_of_the_far_one(
    corner: tuple[float, float], extent: tuple[float, float], grid: tuple[int, int]
) -> None:
    x0, y0, x1, y1 = *corner, min(corner[0] + extent[0], 1.0), min(corner[1] + extent[1], 1.0)
    near_border = any(
        abs(edge * n - round(edge * n)) < 2e-3
        for edge, n in ((x0, grid[1]), (x1, grid[1]), (y0, grid[0]), (y1, grid[0]))
    )
    if near_border:
        return
    covered = box_patches(torch.tensor([x0, y0, x1, y1]), grid).reshape(grid)
    rows = range(math.floor(y0 * grid[0]), math.ceil(y1 * grid[0]))
    columns = range(math.floor(x0 * grid[1]), math.ceil(x1 * grid[1]))
    expected = torch.zeros(grid, dtype=torch.bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert torch.equal(covered, expected)


def test_pooling_averages_members_and_an_empty_region_is_zero() -> None:
    states = torch.arange(12.0).reshape(1, 6, 2)
    membership = torch.tensor([[[True, False, True, False, False, False], [False] * 6]])
    torch.testing.assert_close(pool_patches(states, membership), torch.tensor([[[2.0, 3.0], [0.0, 0.0]]]))
