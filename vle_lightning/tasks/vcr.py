"""Visual commonsense reasoning (arXiv 1811.10830): four choices about tagged objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, DataFacts, VCRBatch
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.models.backbone import IMAGE_TYPE, Blind
from vle_lightning.models.heads import classifier, initialise
from vle_lightning.models.regions import box_patches
from vle_lightning.optim import OptimConfig
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.drawings import draw_choices
from vle_lightning.tasks.looks import look
from vle_lightning.tasks.pictures import Names, Picture

CHOICES = 4  # of an answer, and of a rationale


class Regions(NamedTuple):
    """The objects that each of K choices tags, as sets of patches."""

    patches: Tensor  # (B, K, R, P) bool
    valid: Tensor  # (B, K, R) bool; False on padding
    types: Tensor  # (B, K, R) int64: the token type that ties the region to its mentions


class VCRTask(VisionLanguageTask):
    """Q->A or QA->R: the image is encoded once, its tagged objects join it for each choice, the best pair wins.

    Where rationales are judged given each of the four answers, K is 16 instead of 4: four decisions between four. The
    scores are of the decision given the right answer, as the metric asks for.
    """

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        mode: Literal["q2a", "qa2r"] = "q2a",
        families: list[str] | None = None,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and a scorer on the pooled pair.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            mode: q2a chooses the answer, qa2r the rationale given the right answer; the data module's mode is the same.
            families: kinds of questions that are scored apart as well.
            init: a checkpoint or run folder to start from.
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule; the default is VLE's.
            seed: of dropout.
        """
        super().__init__(architecture, blind, optim, seed)
        self.mode, self.families = mode, tuple(families or ())
        self.options = {"mode": mode, "families": families}
        self.head = classifier(self.model.pooled_width, 2 * self.model.width, 1)
        initialise(self.head, self.model.init_std)
        self.add_scores([mode, *(f"{mode}_{family}" for family in self.families), "loss"])
        self.monitor = f"val/{mode}"
        self.start(init, self.published_heads())

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Choose the mode by the head."""
        modes = [mode for mode in ("q2a", "qa2r") if f"vcr_{mode}_logit" in pretrained.heads]
        return {"mode": modes[0]} if modes else {}

    def published_heads(self) -> dict[str, nn.Module]:
        """Return the scorer."""
        return {f"vcr_{self.mode}_logit": self.head}

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Add mode and token types."""
        found, rows = super().disagreements(facts), self.model.token_types.num_embeddings
        if facts.mode not in (None, self.mode):
            found.append(f"data.mode is {facts.mode}, but model.mode is {self.mode}")
        if facts.token_types is not None and facts.token_types > rows:
            found.append(
                f"data.first_object_type + data.max_objects is {facts.token_types}, but model.architecture has "
                f"{rows} token types"
            )
        return found

    def forward(self, batch: VCRBatch) -> Tensor:
        """Score the choices: logits (B, K); a region that covers no patch is left out."""
        patches = box_patches(batch.regions, self.model.layout.grid(batch.pixel_values))
        regions = Regions(patches, batch.region_valid & patches.any(-1), batch.region_types)
        text = self.model.encode_text(batch.input_ids.flatten(0, 1), batch.attention_mask.flatten(0, 1))
        return self.score_choices(text, self.model.encode_image(batch.pixel_values), regions, batch.token_types)

    def score_choices(self, text: Stream, image: Stream, regions: Regions, text_types: Tensor) -> Tensor:
        """Score encoded choices; each image joins its K texts with the regions that they tag.

        Args:
            text: KB texts, the K choices of a question together: states (KB, T, D), mask (KB, T).
            image: B images: states (B, 1 + P, D), mask (B, 1 + P).
            regions: R for each choice; a valid one without patches makes the choice's logit NaN.
            text_types: (B, K, T) int64 token types.

        Returns:
            Logits (B, K).
        """
        choices = text_types.shape[1]
        pooled = self.model.pool_regions(image, regions.patches.flatten(1, 2), regions.valid.flatten(1, 2))
        count = pooled.states.shape[1] // choices
        pair = append(
            image.repeat(choices),
            Stream(*(part.unflatten(1, (choices, count)).flatten(0, 1) for part in pooled)),
        )
        patch_types = torch.full_like(pair.mask[:, : image.states.shape[1]], IMAGE_TYPE, dtype=torch.long)
        image_types = torch.cat([patch_types, regions.types.flatten(0, 1)[:, :count]], dim=1)
        types = text_types.flatten(0, 1)[:, : text.states.shape[1]]
        scores: Tensor = self.head(self.model.pool_pairs(text, pair, types, image_types))
        return scores.view(-1, choices)

    def step(self, batch: VCRBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Average cross entropy over the four choices, given the right answer."""
        known = batch.valid & (batch.targets != IGNORED)
        targets = batch.targets % CHOICES
        logits = decided(self(batch), torch.where(known, batch.targets, 0))
        losses = F.cross_entropy(logits[known].float(), targets[known], reduction="none")
        right = (logits.argmax(1) == targets) & known
        for name, rows in self._counted(batch, known):
            self.score(stage, name, (right & rows).sum(), rows.sum())
        if stage is not Stage.TRAIN:
            self.score(stage, "loss", losses.detach().sum(), known.sum())
        return losses.sum() / known.sum().clamp(min=1)

    def pictures(self, batch: VCRBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw questions with their objects and choices, and where the model looked for its own."""
        seen = look(self.model, self, batch)
        shares = seen.logits.unflatten(1, (-1, CHOICES)).softmax(2).flatten(1)
        return [draw_choices(batch, shares, seen.heat, names, self.model.pixels)]

    def predict_step(self, batch: VCRBatch) -> list[dict[str, object]]:
        """Return the best choice of each valid question, the right one if known, and the probabilities.

        These are four; of rationales given each answer four times four, and the best and the right one, which are
        those given the right answer, are None where that is hidden.
        """
        logits = self(batch).float()
        known, each = batch.targets != IGNORED, logits.shape[1] > CHOICES
        best = decided(logits, torch.where(known, batch.targets, 0)).argmax(1)
        shares = logits.unflatten(1, (-1, CHOICES)).softmax(2)
        columns = (
            batch.sample_ids,
            batch.question_ids,
            batch.families,
            best.tolist(),
            (batch.targets % CHOICES).tolist(),
            (shares if each else shares.squeeze(1)).tolist(),
            known.tolist(),
        )
        return [
            {
                "id": name,
                "question_id": question,
                "family": family,
                "prediction": None if each and not is_known else choice,
                "target": target if is_known else None,
                "probabilities": probabilities,
            }
            for (name, question, family, choice, target, probabilities, is_known), valid in zip(
                zip(*columns, strict=True), batch.valid.tolist(), strict=True
            )
            if valid
        ]

    def _counted(self, batch: VCRBatch, known: Tensor) -> list[tuple[str, Tensor]]:
        counted: list[tuple[str, Tensor]] = [(self.mode, known)]
        for family in self.families:
            members = torch.tensor([name == family for name in batch.families], device=known.device)
            counted.append((f"{self.mode}_{family}", known & members))
        return counted


def decided(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logits (B, 4) of the decision that each target belongs to: of K = 4 the only one.

    Args:
        logits: (B, K).
        targets: (B,) int64, the right one of K choices, answer * 4 + rationale for K = 16.
    """
    rows = torch.arange(len(targets), device=targets.device)
    chosen: Tensor = logits.unflatten(1, (-1, CHOICES))[rows, targets // CHOICES]
    return chosen


def append(stream: Stream, more: Stream) -> Stream:
    """Lay ``more`` (B, R, D) behind ``stream`` (B, N, D)."""
    return Stream(torch.cat([stream.states, more.states], dim=1), torch.cat([stream.mask, more.mask], dim=1))


Task = VCRTask
