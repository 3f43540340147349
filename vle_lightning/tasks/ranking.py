"""What tasks of retrieval share: evaluation encodes a split, and ranks all of it at its end."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.metrics.retrieval import RetrievalRecall
from vle_lightning.models.backbone import Blind
from vle_lightning.optim import OptimConfig
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import Stage, VisionLanguageTask, per_split
from vle_lightning.tasks.pictures import Names, Picture
from vle_lightning.tasks.ranked import best_matches
from vle_lightning.tasks.scoring import EncodedImages, EncodedSplit, EncodedTexts, Score, ScoredSplit, score_split
from vle_lightning.tasks.sheets import gallery, retrieval_sheet


class RankingTask(VisionLanguageTask):
    """Evaluation of retrieval. A subclass says how pairs are scored, and what vectors make a shortlist.

    Each image and text is encoded once; the split's end scores the pairs. So a rank holds its share of the images
    (COCO 5K at 384 px and VLE-base's width: 9 GB in float32 over all ranks) and all texts (1 GB).
    """

    calls_alike = False  # a rank scores the pairs of its own images
    pairs_per_batch: int  # of evaluation, on one device

    def __init__(
        self,
        architecture: Architecture,
        blind: Blind,
        optim: OptimConfig,
        seed: int,
        top_k: int,
        folds: tuple[int, ...],
        pairs_per_batch: int,
    ) -> None:
        """Build the encoder.

        Args:
            architecture: as `VisionLanguageTask`, like the next three.
            blind: what is masked.
            optim: learning rates and schedule.
            seed: of dropout.
            top_k: fuse only a shortlist: so many texts of each image; 0: see the subclass.
            folds: parts that evaluation is averaged over.
            pairs_per_batch: of evaluation, on one device.

        Raises:
            UserError: an option is out of range.
        """
        _check_options(top_k, folds, pairs_per_batch)
        super().__init__(architecture, blind, optim, seed)
        self.top_k, self.folds, self.pairs_per_batch = top_k, tuple(folds), pairs_per_batch
        self.suffix = f"_top{top_k}" if top_k else ""
        self.monitor = f"val/r@1{self.suffix}"
        self.add_scores([])
        self._encoded = per_split(EncodedSplit)
        self._predicted = EncodedSplit()

    def match(self, text: Stream, image: Stream) -> Tensor:
        """Score K pairs (K,) by fusing them."""
        raise TypeError(f"{type(self).__name__} does not define match")

    @property
    def scorer(self) -> Score | None:
        """Return what scores pairs: `match`; None: the product of their vectors."""
        return self.match

    def vectors(self, text: Stream, image: Stream) -> tuple[Tensor, Tensor] | None:
        """Return unit vectors (T, C) of texts and (B, C) of images, where there are any."""
        raise TypeError(f"{type(self).__name__} does not define vectors")

    def validation_step(self, batch: RetrievalBatch) -> None:  # type: ignore[override]
        """Encode a batch of the validation split."""
        self.encode(batch, self._encoded[Stage.VAL])

    def test_step(self, batch: RetrievalBatch) -> None:  # type: ignore[override]
        """Encode a batch of the test split."""
        self.encode(batch, self._encoded[Stage.TEST])

    def predict_step(self, batch: RetrievalBatch, batch_idx: int) -> list[dict[str, object]]:
        """Encode a batch; the last one, which all ranks reach together, returns the rows of the whole split."""
        self.encode(batch, self._predicted)
        return self.split_rows() if batch_idx + 1 == self.trainer.num_predict_batches[0] else []

    def split_rows(self) -> list[dict[str, object]]:
        """Rank what was encoded for prediction; all ranks call this together."""
        return best_matches(self.score_all(self._predicted))

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Return TR@k, IR@k and the mean of both at 1, of the whole set and of its folds.

        Raises:
            UserError: an image or a text comes twice, or a score is NaN.
        """
        scored = self.score_all(self._encoded[stage])
        whole = [folds for folds in self.folds if not len(scored.image_ids) % folds]
        for folds in set(self.folds) - set(whole):
            warnings.warn(
                f"{len(scored.image_ids)} images do not make {folds} folds (model.folds): no such score", stacklevel=1
            )
        named: dict[str, float] = {}
        for way, scores in self.rankings(scored).items():
            recall = RetrievalRecall(scored.image_ids, scored.texts.owners, folds=whole)
            recall.update(scored.own, scores)
            for folds, found in recall.compute().items():
                suffix = (f"_{folds}folds" if folds > 1 else "") + way
                named |= {f"tr@{k}{suffix}": value for k, value in found.text.items()}
                named |= {f"ir@{k}{suffix}": value for k, value in found.image.items()}
                if folds == 1:
                    named[f"r@1{suffix}"] = (found.text[1] + found.image[1]) / 2
        return named

    def rankings(self, scored: ScoredSplit) -> dict[str, Tensor]:
        """Return the scores (len(own), T) that recall is counted of, by what its names end in."""
        return {self.suffix: scored.scores}

    def pictures(self, batch: RetrievalBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw a few images with their best texts, and texts with their best images."""
        del names
        part = gallery(batch)
        return [retrieval_sheet(part.pixel_values, part.texts, self(part), part.owners, self.model.pixels)]

    def encode(self, batch: RetrievalBatch, encoded: EncodedSplit) -> None:
        """Keep the streams of the valid images, and of their texts."""
        _check_texts(batch)
        if not batch.valid.any():
            return
        kept = batch.valid[batch.owners]
        rows = [row for row, keep in enumerate(batch.valid.tolist()) if keep]
        texts = [row for row, keep in enumerate(kept.tolist()) if keep]
        owners = batch.owners.tolist()
        text = self.model.encode_text(batch.input_ids[kept], batch.attention_mask[kept])
        image = self.model.encode_image(batch.pixel_values[batch.valid])
        nothing = text.states.new_zeros(0)
        vectors = self.vectors(text, image) or [nothing.expand(len(part.mask), 0) for part in (text, image)]
        encoded.add(
            EncodedTexts(
                tuple(batch.text_ids[row] for row in texts),
                tuple(batch.texts[row] for row in texts),
                tuple(batch.image_ids[owners[row]] for row in texts),
                text.mask.sum(1),
                text.states[text.mask],
                vectors[0],
            ),
            EncodedImages(tuple(batch.image_ids[row] for row in rows), image, vectors[1]),
        )

    def score_all(self, encoded: EncodedSplit) -> ScoredSplit:
        """Score all pairs, or those of a shortlist; all ranks call this together."""
        with self._precision():
            return score_split(encoded.take(), self.scorer, self.device, self.pairs_per_batch, self.top_k)

    def _precision(self) -> AbstractContextManager[None]:
        """Return the run's precision, which Lightning sets for steps but not for the end of an epoch."""
        return self._trainer.precision_plugin.forward_context() if self._trainer else nullcontext()


def _check_options(top_k: int, folds: tuple[int, ...], pairs_per_batch: int) -> None:
    if top_k < 0:
        raise UserError(f"model.top_k is {top_k}; give the texts in an image's shortlist, or 0 for no shortlist")
    if top_k and max(folds) > 1:
        raise UserError(
            f"model.top_k is {top_k}, but model.folds {list(folds)}: a shortlist of the whole set is not one of its "
            "folds. Set model.folds to [1], or model.top_k to 0"
        )
    if pairs_per_batch < 1:
        raise UserError(f"model.pairs_per_batch is {pairs_per_batch}; it must be at least 1")
    if 1 not in folds or min(folds) < 1:
        raise UserError(f"model.folds is {list(folds)}; give 1 for the whole set, and 5 beside it for COCO's 1K folds")


def _check_texts(batch: RetrievalBatch) -> None:
    """Refuse what cannot be found: an image without a text, a text without a token."""
    described = set(batch.owners.tolist())
    bare = [name for row, name in enumerate(batch.image_ids) if row not in described]
    if bare:
        raise UserError(f"image {bare[0]!r} has no text that could be found: leave it out of the set")
    filled = batch.attention_mask.any(1).tolist()
    empty = [name for name, full in zip(batch.text_ids, filled, strict=True) if not full]
    if empty:
        raise UserError(f"text {empty[0]!r} has no token: leave it out of the set")
