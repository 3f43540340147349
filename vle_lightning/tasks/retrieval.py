"""Image-text retrieval: which texts describe an image, which image a text describes, by the ITM score of each pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
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
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.ranking import RankingTask

CONTRASTIVE, RANK = "contrastive", "rank_output"  # names of heads that no published VLE has
Scorer = Literal["matching", "rank"]


class RetrievalTask(RankingTask):
    """Ranking by ITM's opinion: in training among the texts of a micro-batch, in evaluation among all pairs.

    Either pre-training's matching head goes on learning and a pair's score is the difference of its two logits, with a
    loss over texts and images alike (ours); or, as METER does, one output of its own is started from the row of that
    head that says match and ranks the texts of each image alone. The head itself then stays as it is and has no loss.
    """

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
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule; the default is METER's.
            seed: of dropout and of drawn negatives.

        Raises:
            UserError: an option is out of range, or needs the contrastive head.
        """
        super().__init__(architecture, blind, optim, seed, top_k, folds, pairs_per_batch)
        _check_options(contrastive, hard, top_k)
        self.weight, self.hard = contrastive, hard
        self.options = {"contrastive": contrastive, "scorer": scorer}
        self.head = nn.Linear(self.model.pooled_width, 2)
        initialise(self.head, self.model.init_std)
        self.rank = nn.Linear(self.model.pooled_width, 1) if scorer == "rank" else None
        self.contrastive = ContrastiveHead(self.model.width, self.model.init_std) if contrastive else None
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

    def vectors(self, text: Stream, image: Stream) -> tuple[Tensor, Tensor] | None:
        """Return the vectors of the contrastive head."""
        if self.contrastive is None:
            return None
        return self.contrastive.embed_texts(text), self.contrastive.embed_images(image)

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
        scores = self.match(text.select(candidates.texts), image.select(candidates.images))
        loss = ranking_loss(scores, candidates, groups, batch.valid, of_texts=self.rank is None)
        first = first_places(scores.detach(), candidates) & batch.valid
        self.score(stage, "first_places", first.sum(), batch.valid.sum())
        if similarities is None:
            return loss
        contrast = contrastive_loss(similarities, groups[:, None] == groups, batch.valid)
        self.score(stage, "contrastive_loss", contrast.detach() * batch.valid.sum(), batch.valid.sum())
        return loss + self.weight * contrast

    def _candidates(self, batch: RetrievalBatch, groups: Tensor, similarities: Tensor | None) -> Candidates:
        if not self.hard:
            return shifted_candidates(len(batch), batch.shifts)
        assert similarities is not None
        return hard_candidates(similarities, groups, batch.valid, len(batch.shifts))

    @staticmethod
    def _groups(batch: RetrievalBatch) -> Tensor:
        """Return a number (B,) for the image of each row."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(batch.image_ids))}
        return torch.tensor([numbers[name] for name in batch.image_ids], device=batch.valid.device)


def _check_options(contrastive: float, hard: bool, top_k: int) -> None:
    if not contrastive >= 0:
        raise UserError(f"model.contrastive is {contrastive}; give the weight of the contrastive loss, 0 for none")
    for name, wish in (("hard", hard), ("top_k", top_k)):
        if wish and not contrastive:
            raise UserError(
                f"model.{name} is {wish}, but chooses by contrastive similarity: set model.contrastive above 0"
            )


Task = RetrievalTask
