"""Where the published VCR pipelines count other patches under a box than training does (docs/pretraining_spec.md)."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.inference.vcr_compatible import patch_box
from vle_lightning.models.regions import box_patches

SIDE, PATCH = 96, 16  # pixels
edges = st.lists(st.integers(0, SIDE), min_size=2, max_size=2, unique=True).map(sorted)


@given(edges, edges)
def test_patches_differ_where_a_far_edge_lies_on_a_patch_border_and_nowhere_else(x: list[int], y: list[int]) -> None:
    box = torch.tensor([x[0], y[0], x[1], y[1]], dtype=torch.float32)
    grid = (SIDE // PATCH, SIDE // PATCH)
    ours = box_patches(box / SIDE, grid).nonzero()[:, 0].tolist()
    theirs = patch_box(box.tolist(), (SIDE, SIDE), grid).patches
    on_border = any(far % PATCH == 0 and far < SIDE for far in (x[1], y[1]))
    assert (set(ours) < set(theirs)) == on_border
    assert (ours == theirs) != on_border
