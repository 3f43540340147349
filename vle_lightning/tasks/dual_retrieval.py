"""Image-text retrieval by a dual encoder: one vector an image and one a text, compared by a product (VLMo, 3.4).

No pair is fused, so that a large set is searched at once; where asked, the fusion ranks the best of it again.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.models.backbone import Blind
from vle_lightning.models.contrastive import cosines
from vle_lightning.models.heads import in_float32, initialise
from vle_lightning.objectives.base import Extra, ObjectiveOutput
from vle_lightning.objectives.contrast import Negatives
from vle_lightning.objectives.itc import ImageTextContrast
from vle_lightning.objectives.itm_hard import judge_matches
from vle_lightning.objectives.passes import Encoded
from vle_lightning.optim import OptimConfig
from vle_lightning.streams import ImageView, Stream, TextView, stack
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.contrasting import StepContrast
from vle_lightning.tasks.ranking import RankingTask
from vle_lightning.tasks.scoring import EncodedSplit, Score, ScoredSplit

MATCHING = "itm_score"


class DualRetrievalTask(RankingTask):
    """Contrast of the whole step in training, similarity of all vectors in evaluation."""

    def __init__(
        self,
        architecture: Architecture = "vlmo-base",
        matching: float = 0.0,
        top_k: int = 0,
        folds: tuple[int, ...] = (1,),
        pairs_per_batch: int = 1024,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(lr=3e-5, fusion_multiplier=1.0, head_multiplier=1.0),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and pre-training's heads of contrast and matching.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            matching: weight of ITM with hard negatives beside contrast, as ALBEF fine-tunes (arXiv 2107.07651, 3.2):
                the fusion learns to rank again. With 0, as in VLMo, it stays as it came while what it reads changes.
            top_k: rank so many texts of each image again (and the same share of the images of each text), those of the
                greatest similarity, by the logit of ITM's head on the fused pair plus that of contrast. The names of
                these scores end in ``_top`` and the number, beside those of similarity. 0: similarity alone.
            folds: parts that evaluation is averaged over, each searched by itself.
            pairs_per_batch: of fusion, on one device.
            init: a checkpoint or run folder to start from.
            blind: what is masked.
            optim: learning rates and schedule; the default is VLMo's.
            seed: of dropout.

        Raises:
            UserError: an option is out of range, or a modality is masked.
        """
        super().__init__(architecture, blind, optim, seed, top_k, folds, pairs_per_batch)
        if not 0 <= matching < math.inf:
            raise UserError(f"model.matching is {matching}; give a weight of at least 0, and finite")
        if blind != "none":
            raise UserError(f"model.blind={blind}: contrast compares texts with images, and needs both")
        self.options = {}
        self.contrast = ImageTextContrast(self.model, first=True)
        self.head = nn.Linear(self.model.pooled_width, 2)
        initialise(self.head, self.model.init_std)
        self.matching = matching
        self.head.requires_grad_(bool(matching))
        self._step = StepContrast(self.contrast, self.model, "global", draws=bool(matching), seed=seed)
        self.new_heads = () if matching else (MATCHING,)  # which never trains then
        self.start(init, self.heads())

    @property
    def looks_ahead(self) -> bool:
        """Contrast needs all micro-batches of a step from its start on."""
        return True

    @property
    def trains_all(self) -> bool:
        """Say whether poolers and fusion have a loss."""
        return bool(self.matching)

    def published_heads(self) -> dict[str, nn.Module]:
        """Return the heads of contrast and matching."""
        return {**self.contrast.named_heads(), MATCHING: self.head}

    @property
    def scorer(self) -> Score | None:
        """Return the fusion where it ranks again; else nothing, for vectors are compared.

        Raises:
            UserError: its head is as it was drawn.
        """
        if fault := self.lacks(self.new_heads):
            raise UserError(fault)
        return self.match if self.top_k else None

    def lacks(self, untrained: Collection[str]) -> str | None:
        """Say where the fusion would rank by a head that nothing has trained: contrast leaves it as it came."""
        if not self.top_k or MATCHING not in untrained:
            return None
        return (
            f"model.top_k is {self.top_k}, but these weights hold no trained head {MATCHING} to rank the best again: "
            "set model.top_k to 0, or model.init to a checkpoint of pre-training with ITM"
        )

    def rankings(self, scored: ScoredSplit) -> dict[str, Tensor]:
        """Return the similarities, and the scores of the best that were fused."""
        again = super().rankings(scored)
        return {"": scored.similarities, **again} if self.top_k else again

    def score_all(self, encoded: EncodedSplit) -> ScoredSplit:
        """Score a split; where pairs are fused, add the contrast's logits to those of the matching head.

        Hard negatives are drawn in proportion to exp(s), s the contrast's logit, so what the head learns is how much
        more likely a match is than s says: log p(match) is its logit + s, up to a constant of each text and image. A
        head that has learnt nothing leaves the order of similarities. BLIP (arXiv 2201.12086) adds the two as well.
        """
        scored = super().score_all(encoded)
        if not self.top_k:
            return scored
        head = self.contrast.heads()[0]
        with torch.no_grad():
            images, texts = (part.to(self.device) for part in (scored.vectors, scored.texts.vectors))
            return scored._replace(scores=scored.scores + head(images, texts).cpu())

    def match(self, text: Stream, image: Stream) -> Tensor:
        """Score K pairs (K,): by how much the logit of a match is above that of none."""
        logits = in_float32(self.head, self.model.pool_pairs(text, image))
        score: Tensor = logits[:, 1] - logits[:, 0]
        return score

    def vectors(self, text: Stream, image: Stream) -> tuple[Tensor, Tensor]:
        """Return unit vectors of texts and images."""
        found = self.contrast.vectors_of(self.model, Encoded({TextView.CLEAN: text}, {ImageView.CLEAN: image}))
        return found.texts[0], found.images[0]

    def forward(self, batch: RetrievalBatch) -> Tensor:
        """Compare all images of a batch with all its texts: (B, T) cosines."""
        encoded = self._encode(batch)
        text, image = self.vectors(encoded.texts[TextView.CLEAN], encoded.images[ImageView.CLEAN])
        return cosines(image, text)

    def step(self, batch: RetrievalBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Contrast the pairs of a micro-batch with those of the whole step, and match its hard ones where asked."""
        if batch.ahead:
            self._step.look_ahead(batch, self._encode)
        encoded = self._encode(batch)
        encoded, extras = self._step.extend(batch, encoded, is_whole=False)
        output = self.contrast(None, batch, extras[Extra.VECTORS], extras[Extra.CONTRAST])
        loss: Tensor = output.loss
        scores = output.scores
        if self.matching:
            matched = self._match_hard(batch, encoded, extras[Extra.NEGATIVES])
            loss, scores = loss + self.matching * matched.loss, (*scores, *matched.scores)
        for score in scores:
            self.score(stage, *score)
        return loss

    def _match_hard(self, batch: RetrievalBatch, encoded: Encoded, negatives: Negatives) -> ObjectiveOutput:
        """Fuse B pairs, and each side of them beside the other side of another pair, in one call."""
        text, image = encoded.texts[TextView.CLEAN], encoded.images[ImageView.CLEAN]
        texts = stack([text, negatives.texts, text])
        images = stack([image, image, negatives.images])
        return judge_matches(self.head(self.model.pool_pairs(texts, images)), batch.valid, negatives)

    def _encode(self, batch: RetrievalBatch) -> Encoded:
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        return Encoded({TextView.CLEAN: text}, {ImageView.CLEAN: self.model.encode_image(batch.pixel_values)})


Task = DualRetrievalTask
