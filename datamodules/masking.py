"""What pre-training draws at random, in numpy: masked tokens, mismatched partners, hidden boxes and patches.

Every function is pure and takes its generator: a micro-batch is the same on any rank and in any worker.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vle_lightning.batch import IGNORED

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the rest is kept (BERT, arXiv 1810.04805, section 3.1)
TOUCH = np.float32(1e-3)  # in patch sides: an overlap below this is rounding of stored boxes, not a covered patch


def mask_tokens(
    ids: Ints,
    special: Bools,
    rng: np.random.Generator,
    *,
    mask_id: int,
    ordinary: Ints,
    share: float = 0.15,
    word_starts: Bools | None = None,
) -> tuple[Ints, Ints]:
    """Choose tokens to restore: 80 % become the mask, 10 % a random token, 10 % stay.

    Args:
        ids: (B, T) token ids.
        special: (B, T); True on tokens that are never chosen (CLS, SEP, padding).
        rng: the micro-batch's generator.
        mask_id: id of the mask token.
        ordinary: (K,) ids that a random token is drawn from, no special ones among them.
        share: of the tokens (of the words, with ``word_starts``) that are chosen, each independently.
        word_starts: (B, T), True on the first token of each word; then words are chosen whole.

    Returns:
        The masked ids (B, T) and the targets (B, T), IGNORED where nothing is to be restored.
    """
    lots = rng.random(ids.shape)
    if word_starts is not None:
        word = np.maximum(np.cumsum(word_starts, axis=1) - 1, 0)
        lots = np.take_along_axis(lots, word, axis=1)
    chosen = (lots < share) & ~special
    fates = rng.random(ids.shape)
    substitutes = ordinary[rng.integers(len(ordinary), size=ids.shape)]
    masked = np.where(chosen & (fates < MASKED), mask_id, ids)
    masked = np.where(chosen & (fates >= MASKED) & (fates < MASKED + RANDOM), substitutes, masked)
    return masked, np.where(chosen, ids, IGNORED)


def pair_partners(image_ids: Ints | NDArray[np.str_], rng: np.random.Generator) -> Ints:
    """Choose the text that ITM lays beside each image.

    Half of the rows (rounded down, drawn at random) get the next row's text that belongs to another image; a
    row without such a text keeps its own.

    Args:
        image_ids: (B,) what tells images apart.
        rng: the micro-batch's generator.

    Returns:
        (B,) rows; the row itself is a match.
    """
    rows = np.arange(len(image_ids))
    following = (rows[:, None] + rows) % len(rows)
    other = image_ids[following] != image_ids[:, None]
    partner = rows.copy()
    shifted = rng.permutation(len(rows))[: len(rows) // 2]
    partner[shifted] = following[shifted, other[shifted].argmax(axis=1)]  # no True: column 0, the row itself
    return partner


def draw_patches(rows: int, patches: int, share: float, rng: np.random.Generator) -> Bools:
    """Draw the patches that masked image modelling hides: of each image equally many, at least one.

    Args:
        rows: B images.
        patches: P of an image.
        share: of the patches, rounded; 0 draws nothing.
        rng: the micro-batch's generator for patches.

    Returns:
        (B, P), True on drawn patches.
    """
    count = max(1, round(share * patches)) if share else 0
    drawn = np.zeros((rows, patches), dtype=bool)
    if count:
        order = np.argsort(rng.random((rows, patches)), axis=1)
        np.put_along_axis(drawn, order[:, :count], True, axis=1)
    return drawn


BLOCK, ASPECT, TRIES = 16 / 196, 0.3, 10  # BEiT's: least share of a block, least height / width, tries for a block


def draw_blocks(rows: int, grid: tuple[int, int], share: float, rng: np.random.Generator) -> Bools:
    """Draw the patches that masked image modelling hides in blocks (BEiT, arXiv 2106.08254, algorithm 1).

    Rectangles are laid at random until the share is reached: of at least 16 in 196 patches and at most what is missing,
    height over width from 0.3 to 1 / 0.3. Where ten tries in a row add no patch or too many, the rest is drawn one by
    one, so that all images have equally many.

    Args:
        rows: B images.
        grid: height and width of an image in patches.
        share: of the patches, rounded, at least one; 0 draws nothing.
        rng: the micro-batch's generator for patches.

    Returns:
        (B, P), True on drawn patches, row by row.
    """
    patches = grid[0] * grid[1]
    count = min(max(1, round(share * patches)), patches) if share else 0
    drawn = np.zeros((rows, *grid), dtype=bool)
    for picture in drawn if count else ():
        while (missing := count - int(picture.sum())) and _lay_block(picture, missing, rng):
            pass
        if missing:
            free = np.flatnonzero(~picture)
            picture.flat[rng.choice(free, missing, replace=False)] = True
    return drawn.reshape(rows, patches)


def _lay_block(picture: Bools, most: int, rng: np.random.Generator) -> bool:
    """Hide a rectangle in one image (height, width) that adds 1 to ``most`` patches; say whether one was found."""
    height, width = picture.shape
    least = min(round(BLOCK * picture.size), most)
    for area, slant, y, x in rng.random((TRIES, 4)).tolist():
        aspect = ASPECT ** (1 - 2 * slant)
        target = least + area * (most - least)
        down, across = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
        if not (0 < down < height and 0 < across < width):
            continue
        top, left = int(y * (height - down + 1)), int(x * (width - across + 1))
        block = picture[top : top + down, left : left + across]
        if 0 < block.size - int(block.sum()) <= most:
            block[:] = True
            return True
    return False


def covered_patches(boxes: NDArray[np.floating[Any]], grid: tuple[int, int]) -> Bools:
    """Say which patches each box overlaps; the same rule as the model's ``box_patches``.

    Args:
        boxes: (..., 4) xyxy, normalised to [0, 1].
        grid: height and width of the image in patches.

    Returns:
        (..., height * width), patches row by row.
    """
    x0, y0, x1, y1 = np.moveaxis(boxes.astype(np.float32)[..., None], -2, 0)
    rows, columns = (np.arange(size, dtype=np.float32) for size in grid)
    inside_x = (x0 * grid[1] < columns + 1 - TOUCH) & (x1 * grid[1] > columns + TOUCH)
    inside_y = (y0 * grid[0] < rows + 1 - TOUCH) & (y1 * grid[0] > rows + TOUCH)
    both = inside_y[..., :, None] & inside_x[..., None, :]
    area: Bools = (x1 > x0) & (y1 > y0)
    flat: Bools = both.reshape(*both.shape[:-2], -1) & area
    return flat


def draw_boxes(
    boxes: NDArray[np.floating[Any]], classes: Ints, rng: np.random.Generator, grid: tuple[int, int]
) -> Bools:
    """Draw the boxes that MPC hides: a third of those with a class, at least one (docs/pretraining_spec.md).

    The boxes of an image are gone through in random order until that many are drawn; one that would raise the
    hidden patches above half of the image's is left out, and so is one that covers no patch.

    Args:
        boxes: (B, R, 4) xyxy, normalised to [0, 1].
        classes: (B, R); -1 on padding and on boxes without a class.
        rng: the micro-batch's generator.
        grid: height and width of the image in patches.

    Returns:
        (B, R), True on drawn boxes.
    """
    known = classes >= 0
    wanted = np.where(known.any(axis=1), np.maximum(1, known.sum(axis=1) // 3), 0)
    order = np.argsort(np.where(known, rng.random(classes.shape), 2.0), axis=1)
    patches = covered_patches(boxes, grid)
    rows = np.arange(len(boxes))
    drawn = np.zeros(classes.shape, dtype=bool)
    hidden = np.zeros((len(boxes), grid[0] * grid[1]), dtype=bool)
    for box in order.T[: known.sum(axis=1).max(initial=0)]:
        more = patches[rows, box]
        union = hidden | more
        fits = 2 * union.sum(axis=1) <= union.shape[1]
        taken = known[rows, box] & (drawn.sum(axis=1) < wanted) & fits & more.any(axis=1)
        drawn[rows, box] = taken
        hidden = np.where(taken[:, None], union, hidden)
    return drawn
