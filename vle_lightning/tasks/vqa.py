"""Visual question answering as classification over a fixed set of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import DataFacts, VQABatch
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.metrics.vqa_accuracy import soft_accuracy
from vle_lightning.models.dual_stream import Blind, DualStreamConfig
from vle_lightning.models.heads import classifier, initialise
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Stage, VisionLanguageTask


class VQATask(VisionLanguageTask):
    """Soft targets and binary cross entropy over the answers, as VLE, METER and ViLT train it."""

    monitor = "val/vqa_accuracy"

    def __init__(
        self,
        architecture: str | DualStreamConfig = "vle-base",
        answers: int = 3129,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(lr=7e-6, fusion_multiplier=5.0, head_multiplier=50.0),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and a classifier on the pooled pair.

        Args:
            architecture: a preset (tiny, toy, vle-base, vle-large) or a full configuration.
            answers: C, how many answers there are; the data module's list has as many.
            init: a checkpoint or run folder to start from.
            blind: what is withheld from the model.
            optim: learning rates and schedule; the default is VLE's.
            seed: of dropout.
        """
        super().__init__(architecture, blind, optim, seed)
        self.options = {"answers": answers}
        self.head = classifier(2 * self.model.width, 2 * self.model.width, answers)
        initialise(self.head, self.model.config.init_std)
        self.add_scores(["vqa_accuracy", "loss"])
        self.start(init, {}, ("vqa_classifier",))  # another list of answers gives the head's numbers another meaning

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Count the answers."""
        bias = pretrained.heads.get("vqa_classifier", {}).get("3.bias")
        return {} if bias is None else {"answers": len(bias)}

    def published_heads(self) -> dict[str, nn.Module]:
        """Return the classifier."""
        return {"vqa_classifier": self.head}

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Add the number of answers."""
        found, answers = super().disagreements(facts), self.options["answers"]
        if facts.answers not in (None, answers):
            found.append(f"data.answers lists {facts.answers} answers, but model.answers is {answers}")
        return found

    def forward(self, batch: VQABatch) -> Tensor:
        """Score the answers: logits (B, C)."""
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        image = self.model.encode_image(batch.pixel_values)
        logits: Tensor = self.head(self.model.fuse(text, image).pooled)
        return logits

    def step(self, batch: VQABatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Sum binary cross entropy over answers, average it over questions (the published scaling)."""
        logits, targets = self(batch)[batch.valid], batch.targets[batch.valid]
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").sum(1)
        right, judged = soft_accuracy(logits, targets), batch.valid.sum()
        self.score(stage, "vqa_accuracy", right.sum(), judged)
        if stage is not Stage.TRAIN:
            self.score(stage, "loss", losses.detach().sum(), judged)
        return losses.sum() / judged.clamp(min=1)

    def predict_step(self, batch: VQABatch) -> list[dict[str, object]]:
        """Return the number of the best answer of each valid question, its name if known, and its probability."""
        logits = self(batch)
        best = torch.sigmoid(logits).max(1)
        rows = zip(batch.sample_ids, best.indices.tolist(), best.values.tolist(), batch.valid.tolist(), strict=True)
        names: Sequence[str | None] = self.labels or [None] * logits.shape[1]
        return [
            {"id": name, "prediction": answer, "answer": names[answer], "probability": p}
            for name, answer, p, valid in rows
            if valid
        ]


Task = VQATask
