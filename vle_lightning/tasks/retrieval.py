"""Image-text retrieval: which texts describe an image, which image a text describes, by the ITM score of each pair."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.metrics.retrieval import RetrievalRecall
from vle_lightning.models.backbone import Blind
from vle_lightning.models.contrastive import ContrastiveHead, contrastive_loss
from vle_lightning.models.heads import in_float32, initialise
from vle_lightning.models.ranking import (
    Candidates,
    first_places,
    hard_candidates,
    ranking_loss,
    shifted_candidates,
)
from vle_lightning.optim import OptimConfig
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import Stage, VisionLanguageTask, per_split
from vle_lightning.tasks.pictures import Names, Picture
from vle_lightning.tasks.ranked import best_matches
from vle_lightning.tasks.scoring import EncodedImages, EncodedSplit, EncodedTexts, ScoredSplit, score_split
from vle_lightning.tasks.sheets import gallery, retrieval_sheet

CONTRASTIVE, RANK = "contrastive", "rank_output"  # names of heads that no published VLE has
Scorer = Literal["matching", "rank"]


class RetrievalTask(VisionLanguageTask):
    """Ranking by ITM's opinion: in training among the texts of a micro-batch, in evaluation among all pairs.

    Either pre-training's matching head goes on learning and a pair's score is the difference of its two logits, with a
    loss over texts and images alike (ours); or, as METER does, one output of its own is started from the row of that
    head that says match, ranks the texts of each image alone, and the head itself stays as it is and adds ITM's loss.

    Evaluation encodes each image and text once and keeps the streams; the split's end fuses the pairs. So a rank
    holds its share of the images (COCO 5K at 384 px and VLE-base's width: 9 GB in float32 over all ranks) and all
    texts (1 GB).
    """

    calls_alike: ClassVar[bool] = False  # a rank scores the pairs of its own images

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        scorer: Scorer = "matching",
        contrastive: float = 0.0,
        hard: bool = False,
        top_k: int = 0,
        folds: tuple[int, ...] = (1,),
        pairs_per_batch: int = 1024,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(lr=5e-6),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and pre-training's matching head; a pre-trained one starts from what it knows.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            scorer: what gives a pair its score: matching, the head of pre-training (ours), or rank, an output of
                its own (METER).
            contrastive: weight of the contrastive loss, beside 1 of ranking; 0 makes no contrastive head.
            hard: draw negatives by contrastive similarity, instead of the batch's shifted texts.
            top_k: fuse only a shortlist by contrastive similarity (see `scoring.shortlist`): so many texts of each
                image. The names of the scores say so. 0 fuses all pairs.
            folds: parts that evaluation is averaged over, each searched by itself; (1, 5) for COCO's 5K images and the
                mean of its five 1K folds. A fold holds neighbours in the order of the image ids as strings, for
                Karpathy's order is not in the shards.
            pairs_per_batch: of evaluation, on one device.
            init: a checkpoint or run folder to start from.
            blind: what is withheld from the model.
            optim: learning rates and schedule; the default is METER's.
            seed: of dropout and of drawn negatives.

        Raises:
            UserError: an option is out of range, or needs the contrastive head.
        """
        super().__init__(architecture, blind, optim, seed)
        _check_options(contrastive, hard, top_k, folds, pairs_per_batch)
        self.weight, self.hard = contrastive, hard
        self.top_k, self.folds, self.pairs_per_batch = top_k, tuple(folds), pairs_per_batch
        self.options = {"contrastive": contrastive, "scorer": scorer}
        self.head = nn.Linear(self.model.pooled_width, 2)
        initialise(self.head, self.model.init_std)
        self.rank = nn.Linear(self.model.pooled_width, 1) if scorer == "rank" else None
        self.contrastive = ContrastiveHead(self.model.width, self.model.init_std) if contrastive else None
        self.suffix = f"_top{top_k}" if top_k else ""
        self.monitor = f"val/r@1{self.suffix}"
        self.add_scores([])
        self._encoded = per_split(EncodedSplit)
        self._predicted = EncodedSplit()
        self.new_heads = (RANK,) if self.rank is not None else ()
        self.start(init, self.heads())
        self._start_rank()

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Make a contrastive head and a rank output where there is one."""
        found: dict[str, Any] = {"contrastive": 1.0} if CONTRASTIVE in pretrained.heads else {}
        return found | ({"scorer": "rank"} if RANK in pretrained.heads else {})

    def published_heads(self) -> dict[str, nn.Module]:
        """Return the matching head."""
        return {"itm_score": self.head}

    def heads(self) -> dict[str, nn.Module]:
        """Return all heads; the contrastive one and the rank output are not published."""
        others = {CONTRASTIVE: self.contrastive, RANK: self.rank}
        return self.published_heads() | {name: head for name, head in others.items() if head is not None}

    def _fill(self, pretrained: Pretrained, heads: Mapping[str, nn.Module], option: str) -> None:
        super()._fill(pretrained, heads, option)
        self._start_rank()

    def _start_rank(self) -> None:
        """Start the rank output from the row that says match, unless it came with the weights; the head stays."""
        if self.rank is None:
            return
        self.head.requires_grad_(False)
        if RANK in self.new_heads:
            with torch.no_grad():
                self.rank.weight.copy_(self.head.weight[1:])
                self.rank.bias.copy_(self.head.bias[1:])

    def match(self, text: Stream, image: Stream) -> Tensor:
        """Score K pairs (K,)."""
        return self.rate(self.model.pool_pairs(text, image))

    def rate(self, pooled: Tensor) -> Tensor:
        """Score pooled pairs (K, 2D): by how much the logit of a match is above that of none, or by the rank output."""
        if self.rank is not None:
            return in_float32(self.rank, pooled)[:, 0]
        logits = in_float32(self.head, pooled)
        score: Tensor = logits[:, 1] - logits[:, 0]
        return score

    def forward(self, batch: RetrievalBatch) -> Tensor:
        """Score all images of a batch against all its texts: (B, T)."""
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        image = self.model.encode_image(batch.pixel_values)
        rows = torch.arange(len(batch), device=batch.owners.device).repeat_interleave(len(batch.owners))
        columns = torch.arange(len(batch.owners), device=batch.owners.device).repeat(len(batch))
        scores: Tensor = self.match(text.select(columns), image.select(rows)).unflatten(0, (len(batch), -1))
        return scores

    def step(self, batch: RetrievalBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Rank the right text of each image, and the right image of each text, among some others."""
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        image = self.model.encode_image(batch.pixel_values)
        groups, similarities = self._groups(batch), None
        if self.contrastive is not None:
            similarities = self.contrastive(self.contrastive.embed_images(image), self.contrastive.embed_texts(text))
        candidates = self._candidates(batch, groups, similarities)
        pooled = self.model.pool_pairs(text.select(candidates.texts), image.select(candidates.images))
        scores = self.rate(pooled)
        loss = ranking_loss(scores, candidates, groups, batch.valid, of_texts=self.rank is None)
        if self.rank is not None:
            loss = loss + self._matching_loss(pooled, candidates, groups, batch.valid)
        first = first_places(scores.detach(), candidates) & batch.valid
        self.score(stage, "first_places", first.sum(), batch.valid.sum())
        if similarities is None:
            return loss
        contrast = contrastive_loss(similarities, groups[:, None] == groups, batch.valid)
        self.score(stage, "contrastive_loss", contrast.detach() * batch.valid.sum(), batch.valid.sum())
        return loss + self.weight * contrast

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
        return best_matches(self._score_all(self._predicted))

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Return TR@k, IR@k and the mean of both at 1, of the whole set and of its folds.

        Raises:
            UserError: an image or a text comes twice, or a score is NaN.
        """
        scored = self._score_all(self._encoded[stage])
        whole = [folds for folds in self.folds if not len(scored.image_ids) % folds]
        for folds in set(self.folds) - set(whole):
            warnings.warn(
                f"{len(scored.image_ids)} images do not make {folds} folds (model.folds): no such score", stacklevel=1
            )
        recall = RetrievalRecall(scored.image_ids, scored.texts.owners, folds=whole)
        recall.update(scored.own, scored.scores)
        named: dict[str, float] = {}
        for folds, found in recall.compute().items():
            suffix = (f"_{folds}folds" if folds > 1 else "") + self.suffix
            named |= {f"tr@{k}{suffix}": value for k, value in found.text.items()}
            named |= {f"ir@{k}{suffix}": value for k, value in found.image.items()}
            if folds == 1:
                named[f"r@1{suffix}"] = (found.text[1] + found.image[1]) / 2
        return named

    def pictures(self, batch: RetrievalBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw a few images with their best texts, and texts with their best images."""
        del names
        part = gallery(batch)
        return [retrieval_sheet(part.pixel_values, part.texts, self(part), part.owners, self.model.pixels)]

    def _matching_loss(self, pooled: Tensor, candidates: Candidates, groups: Tensor, valid: Tensor) -> Tensor:
        """Return ITM's loss: every other image has its own text beside it, the others their first wrong one."""
        rows = torch.arange(len(valid), device=valid.device)
        pairs = candidates.of_image[rows, rows % 2]
        images, texts = candidates.images[pairs], candidates.texts[pairs]
        judged = valid & valid[texts]
        targets = (groups[images] == groups[texts]).long()
        losses = F.cross_entropy(in_float32(self.head, pooled[pairs]), targets, reduction="none")
        return (losses * judged).sum() / judged.sum().clamp(min=1)

    def _candidates(self, batch: RetrievalBatch, groups: Tensor, similarities: Tensor | None) -> Candidates:
        if not self.hard:
            return shifted_candidates(len(batch), batch.shifts)
        assert similarities is not None
        return hard_candidates(similarities, groups, batch.valid, len(batch.shifts))

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
        vectors = [nothing.expand(len(part.mask), 0) for part in (text, image)]
        if self.contrastive is not None:
            vectors = [self.contrastive.embed_texts(text), self.contrastive.embed_images(image)]
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

    def _score_all(self, encoded: EncodedSplit) -> ScoredSplit:
        with self._precision():
            return score_split(encoded.take(), self.match, self.device, self.pairs_per_batch, self.top_k)

    def _precision(self) -> AbstractContextManager[None]:
        """Return the run's precision, which Lightning sets for steps but not for the end of an epoch."""
        return self._trainer.precision_plugin.forward_context() if self._trainer else nullcontext()

    @staticmethod
    def _groups(batch: RetrievalBatch) -> Tensor:
        """Return a number (B,) for the image of each row."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(batch.image_ids))}
        return torch.tensor([numbers[name] for name in batch.image_ids], device=batch.valid.device)


def _check_options(contrastive: float, hard: bool, top_k: int, folds: tuple[int, ...], pairs_per_batch: int) -> None:
    if not contrastive >= 0:
        raise UserError(f"model.contrastive is {contrastive}; give the weight of the contrastive loss, 0 for none")
    for name, wish in (("hard", hard), ("top_k", top_k)):
        if wish and not contrastive:
            raise UserError(
                f"model.{name} is {wish}, but chooses by contrastive similarity: set model.contrastive above 0"
            )
    if top_k < 0:
        raise UserError(f"model.top_k is {top_k}; give the texts in an image's shortlist, or 0 to fuse all pairs")
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


Task = RetrievalTask
