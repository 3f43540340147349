"""Recall at k of image-text retrieval, from the scores of all pairs (VSE++, arXiv 1707.05612, section 4).

TR@k: for which share of the images is *any* of its captions among the first k texts. IR@k: for which share of the texts
is its image among the first k images. Of equal scores the wrong one goes first: a model that gives all pairs one score
finds nothing. A right pair of score -inf was not ranked (a shortlist left it out) and is found at no k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.columns import mean

KS = (1, 5, 10)
NEVER = torch.iinfo(torch.int64).max  # the rank of what was not ranked
ScoreMatrix = Tensor | NDArray[Any] | Sequence[Sequence[float]]


class RetrievalScores(NamedTuple):
    """Fractions in [0, 1] for each k; NaN where there was nothing to find."""

    text: dict[int, float]  # TR@k
    image: dict[int, float]  # IR@k


def text_ranks(scores: ScoreMatrix, owners: Sequence[int] | Tensor) -> Tensor:
    """Say at which place the best caption of each image stands, from 1.

    Args:
        scores: I images x T texts, the higher the better; nested lists, an array or a tensor.
        owners: the image, in [0, I), that each of the T texts describes.

    Returns:
        (I,) int64: one more than how many texts of other images score at least as much as the image's best caption.

    Raises:
        UserError: a score is NaN, the sizes do not fit, an owner is no image, or an image has no text.
    """
    matrix, owner = checked(scores, owners)
    check_captions(owner, len(matrix))
    right = matrix[owner, torch.arange(len(owner), device=matrix.device)]
    best = matrix.new_full((len(matrix),), -torch.inf).scatter_reduce(0, owner, right, "amax")
    own = torch.bincount(owner[right >= best[owner]], minlength=len(matrix))
    ranks = (matrix >= best[:, None]).sum(1) - own + 1
    return ranks.masked_fill(best == -torch.inf, NEVER)


def image_ranks(scores: ScoreMatrix, owners: Sequence[int] | Tensor) -> Tensor:
    """Say at which place the image of each text stands, from 1.

    Args:
        scores: I images x T texts, as in ``text_ranks``.
        owners: the image, in [0, I), that each of the T texts describes.

    Returns:
        (T,) int64: one more than how many other images score at least as much as the right one.

    Raises:
        UserError: a score is NaN, the sizes do not fit, or an owner is no image.
    """
    matrix, owner = checked(scores, owners)
    right = matrix[owner, torch.arange(len(owner), device=matrix.device)]
    ranks = (matrix >= right).sum(0)  # the right one is equal to itself
    return ranks.masked_fill(right == -torch.inf, NEVER)


def retrieval_scores(scores: ScoreMatrix, owners: Sequence[int] | Tensor, ks: Sequence[int] = KS) -> RetrievalScores:
    """Compute TR@k and IR@k; the arguments and errors are those of ``text_ranks``."""
    return RetrievalScores(recall(text_ranks(scores, owners), ks), recall(image_ranks(scores, owners), ks))


def fold_scores(
    scores: ScoreMatrix, owners: Sequence[int] | Tensor, folds: int = 5, ks: Sequence[int] = KS
) -> RetrievalScores:
    """Average over folds of images that stand together, each searched by itself: COCO's "1K" protocol on its 5K images.

    Args:
        scores: I images x T texts, as in ``text_ranks``; I is a multiple of ``folds``.
        owners: the image of each text; a text belongs to the fold of its image.
        folds: how many.
        ks: where to cut.

    Raises:
        UserError: the images do not make ``folds`` equal folds, or as in ``text_ranks``.
    """
    matrix, owner = checked(scores, owners)
    if folds < 1 or len(matrix) % folds:
        raise UserError(f"{len(matrix)} images do not make {folds} folds of equal size")
    check_captions(owner, len(matrix))
    size = len(matrix) // folds
    parts = []
    for start in range(0, len(matrix), size or 1):
        texts = ((owner >= start) & (owner < start + size)).nonzero().squeeze(1)
        parts.append(retrieval_scores(matrix[start : start + size][:, texts], owner[texts] - start, ks))
    return RetrievalScores(
        {k: mean(part.text[k] for part in parts) for k in ks},
        {k: mean(part.image[k] for part in parts) for k in ks},
    )


def recall(ranks: Tensor, ks: Sequence[int] = KS) -> dict[int, float]:
    """Return for each k the share of ``ranks`` (N,), from 1, that are at most k; NaN if there are none.

    Raises:
        UserError: a k is not positive.
    """
    if any(k < 1 for k in ks):
        raise UserError(f"recall at k needs k >= 1, not {', '.join(map(str, ks))}")
    return {k: mean((ranks <= k).tolist()) for k in ks}


def check_captions(owner: Tensor, images: int) -> None:
    """Refuse an image that none of the texts, whose images are ``owner`` (T,), describes.

    Raises:
        UserError: names the first such image.
    """
    captions = torch.bincount(owner, minlength=images)
    if not captions.all():
        raise UserError(f"image {int(captions.argmin())} has no text that could be found: leave it out")


def checked(scores: ScoreMatrix, owners: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores (I, T), floating, and the owners (T,) as tensors in one place, or say what is wrong."""
    # plain numbers are doubles: as floats, scores that differ could become ties
    matrix = torch.as_tensor(scores, dtype=None if isinstance(scores, (Tensor, np.ndarray)) else torch.float64)
    matrix = matrix if matrix.is_floating_point() else matrix.double()
    owner = torch.as_tensor(owners, dtype=torch.int64, device=matrix.device)
    if matrix.ndim != 2 and not matrix.numel():
        matrix = matrix.reshape(0, 0)  # what an empty list looks like
    if matrix.ndim != 2 or owner.shape != matrix.shape[1:]:
        raise UserError(
            f"scores must be images x texts with one owner a text, but they are {tuple(matrix.shape)} "
            f"with {tuple(owner.shape)} owners"
        )
    strangers = ((owner < 0) | (owner >= len(matrix))).nonzero()
    if len(strangers):
        text = int(strangers[0])
        raise UserError(f"text {text} belongs to image {int(owner[text])}, but there are {len(matrix)} images, from 0")
    if matrix.isnan().any():
        image, text = matrix.isnan().nonzero()[0].tolist()
        raise UserError(f"the score of image {image} and text {text} is not a number: it cannot be ranked")
    return matrix, owner
