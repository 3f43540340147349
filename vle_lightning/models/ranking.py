"""Which pairs a micro-batch compares to learn ranking, and the loss of their scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Candidates(NamedTuple):
    """K pairs to score, and which of them compete: N wrong ones with the right one of each image and of each text."""

    images: Tensor  # (K,) int64: the image of each pair
    texts: Tensor  # (K,) int64: its text
    of_image: Tensor  # (B, 1 + N) int64: the pairs of each image, the right one first
    of_text: Tensor  # (B, 1 + N) int64: the pairs of each text, the right one first


def shifted_candidates(rows: int, shifts: Tensor) -> Candidates:
    """Compare image i with the texts i, i + shift, ... modulo B.

    As all images have the same shifts, each text meets as many images: B (1 + N) pairs serve both directions.

    Args:
        rows: B; text i describes image i.
        shifts: (N,) int64, distinct, in [1, B).
    """
    shifts = torch.cat([shifts.new_zeros(1), shifts])
    row, competitors = torch.arange(rows, device=shifts.device)[:, None], len(shifts)
    place = torch.arange(competitors, device=shifts.device)
    return Candidates(
        images=row.expand(-1, competitors).flatten(),
        texts=((row + shifts) % rows).flatten(),
        of_image=row * competitors + place,
        of_text=(row - shifts) % rows * competitors + place,
    )


def hard_candidates(similarities: Tensor, groups: Tensor, valid: Tensor, negatives: int) -> Candidates:
    """Compare each image with texts, and each text with images, that the contrastive head holds for likely.

    They are drawn from the softmax of the similarities without replacement, never of one image (ALBEF, arXiv
    2107.07651, section 3.2, draws one of each; so does VLMo, arXiv 2111.02358). Adding Gumbel noise and taking the
    largest does just that (arXiv 1903.06059).

    Args:
        similarities: (B, B) images x texts, scaled by the temperature; text i describes image i.
        groups: (B,) equal for rows of one image.
        valid: (B,) bool; other rows are not drawn.
        negatives: N, less than B. A row with fewer that could be drawn gets others, which `ranking_loss` leaves out.

    Returns:
        B (1 + 2N) pairs.
    """
    rows = len(groups)
    row = torch.arange(rows, device=groups.device)[:, None]
    out = (groups[:, None] == groups) | ~valid
    texts, images = (_draw(side.detach(), out, negatives) for side in (similarities, similarities.T))
    first, second = rows, rows * (1 + negatives)  # where the pairs with drawn texts begin, and those with images
    place = row * negatives + torch.arange(negatives, device=groups.device)
    return Candidates(
        images=torch.cat([row.flatten(), row.expand(-1, negatives).flatten(), images.flatten()]),
        texts=torch.cat([row.flatten(), texts.flatten(), row.expand(-1, negatives).flatten()]),
        of_image=torch.cat([row, first + place], dim=1),
        of_text=torch.cat([row, second + place], dim=1),
    )


def _draw(logits: Tensor, out: Tensor, count: int) -> Tensor:
    """Draw columns (B, count) of each row without replacement; those that are ``out`` (B, B) come last."""
    # of an exponential variable, log gives Gumbel noise with the sign turned
    noise = torch.empty_like(logits).exponential_().log()
    return (logits - noise).masked_fill(out, -torch.inf).topk(count, dim=1).indices


def ranking_loss(
    scores: Tensor, candidates: Candidates, groups: Tensor, valid: Tensor, of_texts: bool = True
) -> Tensor:
    """Average two cross entropies of the right pair: over the texts of each image, and over the images of each text.

    Args:
        scores: (K,) of the pairs.
        candidates: which compete.
        groups: (B,) equal for rows of one image, whose texts are right for each other: these do not compete.
        valid: (B,) bool; other rows are neither judged nor compared with.
        of_texts: False leaves out the second, as METER does (arXiv 2111.02387, its fine-tuning on retrieval).

    Returns:
        (): the mean over the valid rows; an exact zero where there are none.
    """
    same = groups[candidates.images] == groups[candidates.texts]
    out = same | ~valid[candidates.images] | ~valid[candidates.texts]
    losses = []
    for pairs in (candidates.of_image, candidates.of_text) if of_texts else (candidates.of_image,):
        left = out[pairs]
        left[:, 0] = False
        logits = scores.float()[pairs].masked_fill(left, -torch.inf)[valid]
        losses.append(F.cross_entropy(logits, pairs.new_zeros(len(logits)), reduction="sum"))
    return torch.stack(losses).mean() / valid.sum().clamp(min=1)


def first_places(scores: Tensor, candidates: Candidates) -> Tensor:
    """Say of which images (B,) the right text scores above all its competitors."""
    ranked = scores[candidates.of_image]
    return (ranked[:, 1:] < ranked[:, :1]).all(1)
