"""Masks, partners and hidden boxes follow their rules."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.masking import _lay_block, covered_patches, draw_blocks, draw_boxes, mask_tokens, pair_partners
from vle_lightning.batch import IGNORED
from vle_lightning.models.regions import box_patches

MASK, ORDINARY = 4, np.arange(5, 1005)


def masked(
    rows: int,
    tokens: int,
    special: np.ndarray | None = None,
    share: float = 0.15,
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.choice(ORDINARY, (rows, tokens))
    special = np.zeros(ids.shape, dtype=bool) if special is None else special
    options = {"mask_id": MASK, "ordinary": ORDINARY}
    return ids, *mask_tokens(ids, special, rng, share=share, word_starts=starts, **options)  # type: ignore[arg-type]


def test_of_fifteen_percent_eighty_are_masked_ten_random_ten_kept() -> None:
    ids, new, targets = masked(1000, 200)
    chosen = targets != IGNORED
    # 200,000 tokens: five standard deviations are 0.4 % of the tokens, 1.2 % and 0.9 % of the chosen ones
    assert chosen.mean() == pytest.approx(0.15, abs=0.004)
    assert (new[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.012)
    assert (new[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.009)
    assert np.array_equal(targets[chosen], ids[chosen])
    assert np.array_equal(new[~chosen], ids[~chosen])


def test_special_tokens_are_never_chosen_nor_drawn() -> None:
    special = np.random.default_rng(1).random((200, 50)) < 0.3
    ids, new, targets = masked(200, 50, special, share=1.0)
    assert np.array_equal(new[special], ids[special])
    assert (targets[special] == IGNORED).all()
    assert (targets[~special] == ids[~special]).all()
    assert np.isin(new, [MASK, *ORDINARY]).all()


def test_whole_words_are_chosen_whole() -> None:
    starts = np.tile([True, False, False, True, True, False], (300, 5))
    _, _, targets = masked(300, 30, starts=starts)
    chosen = targets != IGNORED
    word = np.cumsum(starts, axis=1)
    for row in range(300):
        for number in np.unique(word[row]):
            assert len(set(chosen[row, word[row] == number])) == 1
    assert chosen.mean() == pytest.approx(0.15, abs=0.03)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 100))
def test_partners_are_of_another_image(images: list[int], seed: int) -> None:
    names = np.array([f"image {image}" for image in images])
    partner = pair_partners(names, np.random.default_rng(seed))
    rows = np.arange(len(images))
    shifted = partner != rows
    assert (names[partner[shifted]] != names[shifted]).all()
    assert shifted.sum() == (len(images) // 2 if len(set(images)) > 1 else 0)
    for row in rows[shifted]:  # the next such text: all between are of the same image
        between = [(row + k) % len(images) for k in range((partner[row] - row) % len(images))]
        assert {images[i] for i in between} == {images[row]}


def test_partners_are_drawn_anew() -> None:
    names = np.arange(64)
    draws = {tuple(pair_partners(names, np.random.default_rng(seed)).tolist()) for seed in range(10)}
    assert len(draws) == 10


sides = st.floats(0, 1, width=32)
some_boxes = st.lists(st.tuples(sides, sides, sides, sides), min_size=1, max_size=8)


@given(some_boxes, st.sampled_from([(6, 6), (7, 9), (14, 14), (1, 1)]))
def test_covered_patches_are_the_models(raw: list[tuple[float, ...]], grid: tuple[int, int]) -> None:
    boxes = np.array(raw, dtype=np.float32)
    expected = box_patches(torch.from_numpy(boxes), grid)
    assert np.array_equal(covered_patches(boxes, grid), expected.numpy())


def test_an_edge_on_a_patch_border_covers_no_further_patch() -> None:
    boxes = np.array([[1 / 3, 0, 2 / 3, 1 / 3], [0.16666, 0.0, 0.33334, 0.16667]])
    assert covered_patches(boxes, (6, 6)).sum(1).tolist() == [4, 1]


@given(st.integers(0, 1000))
def test_a_third_of_the_classed_boxes_is_drawn_and_at_most_half_of_the_patches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.random((20, 9, 2)) * 0.8
    boxes = np.concatenate([corner, corner + 0.2 + 0.2 * rng.random((20, 9, 2))], -1).clip(0, 1)
    classes = rng.integers(-1, 3, (20, 9))
    classes[0] = -1
    drawn = draw_boxes(boxes, classes, rng, (6, 6))
    known = (classes >= 0).sum(1)
    assert not drawn[classes < 0].any()
    assert (drawn.sum(1) <= np.maximum(1, known // 3)).all()
    hidden = (covered_patches(boxes, (6, 6)) & drawn[..., None]).any(1).sum(1)
    assert (hidden <= 18).all()
    assert (drawn.sum(1)[known > 0] >= 1).all()  # each box covers at most 16 patches: one always fits


def test_a_box_above_half_of_the_image_is_left_out_for_another() -> None:
    boxes = np.array([[[0.0, 0.0, 1.0, 0.9], [0.0, 0.0, 0.3, 0.3], [0.5, 0.5, 0.5, 0.9]]])
    for seed in range(20):
        assert draw_boxes(boxes, np.array([[0, 1, 2]]), np.random.default_rng(seed), (6, 6)).tolist() == [
            [False, True, False]
        ]


def test_every_box_is_drawn_at_times() -> None:
    boxes = np.tile([[0.0, 0.0, 0.2, 0.2]], (1, 6, 1))
    rng = np.random.default_rng(0)
    counts = sum(draw_boxes(boxes, np.zeros((1, 6), int), rng, (6, 6)).astype(int) for _ in range(600))
    assert np.all(np.abs(np.asarray(counts) - 200) < 60)  # 2 of 6 each time


def blocks_of(hidden: np.ndarray) -> int:
    """Count hidden patches that have a hidden neighbour."""
    padded = np.pad(hidden, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return int((hidden & near).sum())


@given(
    rows=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    share=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_hide_equally_many_patches_of_each_image(
    rows: int, grid: tuple[int, int], share: float, seed: int
) -> None:
    patches = grid[0] * grid[1]
    drawn = draw_blocks(rows, grid, share, np.random.default_rng(seed))
    assert drawn.shape == (rows, patches)
    assert (drawn.sum(1) == min(patches, max(1, round(share * patches)))).all()
    assert np.array_equal(drawn, draw_blocks(rows, grid, share, np.random.default_rng(seed)))
    assert not draw_blocks(rows, grid, 0.0, np.random.default_rng(seed)).any()


def beits(draw: random.Random) -> np.ndarray:
    """Restate BEiT's own masks (unilm, beit/masking_generator.py) for 75 of 14 x 14 patches; some have a few less."""
    mask, count = np.zeros((14, 14), dtype=bool), 0
    while count < 75:
        added = 0
        for _ in range(10):
            area, ratio = draw.uniform(16, 75 - count), math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if width < 14 and height < 14:
                top, left = draw.randint(0, 14 - height), draw.randint(0, 14 - width)
                block = mask[top : top + height, left : left + width]
                if 0 < height * width - block.sum() <= 75 - count:
                    added = int(height * width - block.sum())
                    block[:] = True
                    break
        if not added:
            break
        count += added
    return mask


def test_blocks_fall_where_beits_do() -> None:
    drawn = draw_blocks(2000, (14, 14), 75 / 196, np.random.default_rng(0)).reshape(-1, 14, 14)
    source = random.Random(0)
    theirs = np.array([beits(source) for _ in range(2000)])
    assert (drawn.sum((1, 2)) == 75).all()
    assert abs(drawn.mean(0) - theirs.mean(0)).max() < 0.06
    for masks in (drawn, theirs):  # nearly every hidden patch has a hidden neighbour; one by one, five in six
        assert sum(map(blocks_of, masks)) / masks.sum() > 0.99


def test_a_first_block_has_beits_sizes() -> None:
    """At least 16 of 196 patches up to rounding, height over width from 0.3 to 1 / 0.3 up to rounding."""
    for seed in range(300):
        picture = np.zeros((14, 14), dtype=bool)
        assert _lay_block(picture, 75, np.random.default_rng(seed))
        rows, columns = picture.any(1).sum(), picture.any(0).sum()
        assert picture.sum() == rows * columns
        assert 12 <= picture.sum() <= 75
        assert 0.3 * 0.8 < rows / columns < 1 / 0.3 / 0.8
