"""Contrast across the micro-batches of a step: what pre-training keeps from the first of them to the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from vle_lightning.batch import PretrainBatch, RetrievalBatch
from vle_lightning.distributed import has_met
from vle_lightning.models.backbone import Backbone
from vle_lightning.objectives.base import Extra
from vle_lightning.objectives.contrast import (
    Content,
    Contrast,
    Mining,
    Negatives,
    Pairs,
    Partners,
    Vectors,
    draw_partners,
    exchange,
    gather,
)
from vle_lightning.objectives.itc import ImageTextContrast
from vle_lightning.objectives.passes import Encoded
from vle_lightning.streams import ImageView, TextView
from vle_lightning.tasks.base import micro_batch_seed

Extras = dict[Extra, Any]
PairsT = TypeVar("PairsT", PretrainBatch, RetrievalBatch)
WHOLE_STEP = -1  # in place of a micro-batch's number, the seed of what is drawn for all of them


@dataclass
class Step:
    """What is known of a step once all its vectors are."""

    number: int
    micro_batches: tuple[int, ...]  # numbers of this rank's
    contrast: Contrast
    partners: Partners | None
    content: Content | None  # texts and pictures of the partners, where they may come from other micro-batches

    def place(self, batch: Pairs) -> int:
        """Return which of the rank's micro-batches this is."""
        return self.micro_batches.index(batch.number)


class StepContrast:
    """Compares all pairs of a step, and draws hard negatives among them."""

    def __init__(self, objective: ImageTextContrast, model: Backbone, mining: Mining, draws: bool, seed: int) -> None:
        """Keep what a step needs.

        Args:
            objective: contrast itself.
            model: the backbone.
            mining: where hard negatives come from.
            draws: hard negatives are needed.
            seed: of the draws, together with the step.
        """
        self._objective, self._model, self._mining = objective, model, mining
        self._draws, self._seed = draws, seed
        self._step: Step | None = None

    def look_ahead(self, batch: PairsT, encode: Callable[[PairsT], Encoded]) -> None:
        """Compare all micro-batches of a step, before the first of this rank's is trained on.

        Each is encoded as it will be again, with the same dropout. All ranks call this together.
        """
        batches = (batch, *batch.ahead)
        vectors = []
        with torch.no_grad(), self._model.unseen():
            for one in batches:
                torch.manual_seed(micro_batch_seed(self._seed, one.step, one.number))
                vectors.append(self._objective.vectors_of(self._model, encode(one)))
        torch.clear_autocast_cache()  # weights cast without gradient must not serve the pass that has one
        torch.manual_seed(micro_batch_seed(self._seed, batch.step, batch.number))
        self._step = self._compare(vectors, batches, is_whole=False)

    def extend(self, batch: Pairs, encoded: Encoded, *, is_whole: bool) -> tuple[Encoded, Extras]:
        """Return what contrast and hard negatives read of a micro-batch.

        Args:
            batch: B pairs.
            encoded: these, with gradient in training.
            is_whole: they are compared with each other alone.

        Raises:
            RuntimeError: in training, the micro-batches before this one of its step have not been seen.
        """
        vectors = self._objective.vectors_of(self._model, encoded)
        step = self._step
        if is_whole or step is None or step.number != batch.step or batch.number not in step.micro_batches:
            if not is_whole and batch.number >= _ranks():
                raise RuntimeError(
                    f"micro-batch {batch.number} of step {batch.step} came without those before it; contrast needs a "
                    "loader that looks ahead (datamodules.loader.MicroBatchLoader)"
                )
            step = self._compare([Vectors(*(part.detach() for part in vectors))], [batch], is_whole=is_whole)
            self._step = None
        place = step.place(batch)
        own = step.contrast.rows.own[place, : len(batch)]
        given: Extras = {Extra.VECTORS: vectors, Extra.CONTRAST: (step.contrast, own)}
        if step.partners is not None:
            negatives = self._negatives(step, step.partners, place, own, encoded)
            given[Extra.NEGATIVES] = negatives
            encoded = encoded._replace(negatives=negatives)
        if batch.number == step.micro_batches[-1]:
            self._step = None  # frees its pictures
        return encoded, given

    def _compare(self, vectors: Sequence[Vectors], batches: Sequence[Pairs], *, is_whole: bool) -> Step:
        first = batches[0]
        rows = gather(vectors, batches, alone=is_whole)
        contrast = self._objective.compare(rows, rows.ranks * len(batches))
        partners = content = None
        if self._draws:
            key = (0, 0, first.number) if is_whole else (self._seed, first.step, WHOLE_STEP)
            partners = draw_partners(contrast.scores, rows, self._mining, micro_batch_seed(*key))
            if self._mining == "global" and rows.ranks * len(batches) > 1:
                content = exchange(rows, torch.stack(partners), batches)
        return Step(first.step, tuple(batch.number for batch in batches), contrast, partners, content)

    def _negatives(self, step: Step, partners: Partners, place: int, own: Tensor, encoded: Encoded) -> Negatives:
        """Encode the partners of a micro-batch, or take them from it where they are its own."""
        rows = step.contrast.rows
        drawn = [part[own] for part in partners]
        has = [part >= 0 for part in drawn]
        if step.content is None:
            planned = rows.own.shape[1]
            at = [rows.place[part.where(exists, own)] % planned for part, exists in zip(drawn, has, strict=True)]
            texts = encoded.texts[TextView.CLEAN].select(at[0])
            images = encoded.images[ImageView.CLEAN].select(at[1])
            return Negatives(texts, images, *has)
        first = place * rows.own.shape[1]
        content = Content(*(part[first : first + len(own)] for part in step.content))
        return Negatives(
            self._model.encode_text(content.input_ids, content.attention_mask),
            self._model.encode_image(content.pixel_values),
            *has,
        )


def _ranks() -> int:
    return torch.distributed.get_world_size() if has_met() else 1
