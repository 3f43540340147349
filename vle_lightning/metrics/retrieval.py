"""Retrieval over any number of ranks: each scores some of the images against all texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.by_id import ByID, Key, SampleID
from vle_lightning.metrics.columns import check_lengths
from vle_lightning.metrics.recall import KS, RetrievalScores, fold_scores

Row = NDArray[Any]  # (T,) float32 or float64


class RetrievalRecall(ByID[Row, dict[int, RetrievalScores]]):
    """TR@k and IR@k over all ranks, each image once.

    An image's caption may be beaten by any text, and a text's image by any image: the ranks' scores are put together
    to one matrix (COCO 5K: 0.5 GB), in the order of ``image_ids``, on every rank.
    """

    def __init__(
        self,
        image_ids: Sequence[SampleID],
        owners: Sequence[SampleID],
        ks: Sequence[int] = KS,
        folds: Sequence[int] = (1,),
    ) -> None:
        """Say what is searched.

        Args:
            image_ids: the I images, in the order of the set, which decides COCO's folds.
            owners: the id of the image that each of the T texts describes.
            ks: where to cut.
            folds: into how many equal folds to split the set, each a score of its own: (1, 5) for COCO 5K and its
                mean of five 1K folds.

        Raises:
            UserError: an image comes twice, or a text's image is not among them.
        """
        super().__init__()
        self.places = {image: place for place, image in enumerate(image_ids)}
        if len(self.places) < len(image_ids):
            twice = next(image for place, image in enumerate(image_ids) if self.places[image] != place)
            raise UserError(f"image {twice!r} comes twice in the set: merge its captions")
        for text, owner in enumerate(owners):
            if owner not in self.places:
                raise UserError(f"text {text} describes image {owner!r}, which is not in the set")
        self.owners = [self.places[owner] for owner in owners]
        self.ks, self.folds = tuple(ks), tuple(folds)

    def update(self, image_ids: Sequence[SampleID], scores: Tensor) -> None:
        """Take in the scores of B images and all texts, (B, T), the higher the better; -inf where none was computed.

        Raises:
            UserError: the sizes do not fit, an image is not in the set, or a score is NaN; the image is named.
        """
        check_lengths(image_ids=image_ids, scores=scores)
        if scores.shape[1:] != (len(self.owners),):
            raise UserError(f"scores must be images x {len(self.owners)} texts, but they are {tuple(scores.shape)}")
        for image, row in zip(image_ids, scores, strict=True):
            if image not in self.places:
                raise UserError(f"image {image!r} is not in the set of {len(self.places)} images to be searched")
            if row.isnan().any():
                text = int(row.isnan().nonzero()[0])
                raise UserError(f"the score of image {image!r} and text {text} is not a number: it cannot be ranked")
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32  # NumPy has no bfloat16
        # copies: a row that is a view would be sent to the other ranks with the whole batch
        self.add(image_ids, [row.copy() for row in scores.detach().to("cpu", dtype).numpy()])

    @staticmethod
    def same(first: Row, second: Row) -> bool:
        """Say whether an image got the same scores both times."""
        return np.array_equal(first, second)

    def score(self, rows: dict[Key, Row]) -> dict[int, RetrievalScores]:
        """Score the whole matrix once for each number of folds.

        Raises:
            UserError: an image has no scores; the message names it.
        """
        missing = [image for image in self.places if image not in rows]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self.places)} images have no scores, the first is {missing[0]!r}: "
                "score every image of the set before computing"
            )
        matrix = torch.from_numpy(np.stack([rows[image] for image in self.places])) if rows else torch.zeros(0, 0)
        return {folds: fold_scores(matrix, self.owners, folds, self.ks) for folds in self.folds}
