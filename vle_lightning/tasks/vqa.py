"""Visual question answering as classification over a fixed set of answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import DataFacts, VQABatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.metrics.vqa_accuracy import VQAAccuracy, soft_accuracy
from vle_lightning.models.backbone import Blind
from vle_lightning.models.heads import classifier, initialise
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Rows, Stage, VisionLanguageTask, per_split
from vle_lightning.tasks.drawings import draw_answers
from vle_lightning.tasks.looks import look
from vle_lightning.tasks.pictures import Names, Picture


class VQATask(VisionLanguageTask):
    """Soft targets and binary cross entropy over the answers, as VLE, METER and ViLT train it.

    A split is scored by the official accuracy of the answers' names, overall and by type; in training the credit of
    the best answer is logged instead, which costs nothing. Questions without answers, as in test splits that hide
    them, reach neither loss nor score.
    """

    monitor = "val/vqa_accuracy"

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        answers: int = 3129,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(lr=7e-6, fusion_multiplier=5.0, head_multiplier=50.0),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and a classifier on the pooled pair.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            answers: C, how many answers there are; the data module's list has as many.
            init: a checkpoint or run folder to start from.
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule; the default is VLE's.
            seed: of dropout.
        """
        super().__init__(architecture, blind, optim, seed)
        self.options = {"answers": answers}
        self.head = classifier(self.model.pooled_width, 2 * self.model.width, answers)
        initialise(self.head, self.model.init_std)
        self.add_scores(["loss"])
        self._official = per_split(VQAAccuracy)
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
            found.append(
                f"data.answers lists {facts.answers} answers, but model.answers is {answers}: set model.answers to "
                f"{facts.answers}, or prepare the data with --answers FILE, a list of {answers}"
            )
        return found

    def forward(self, batch: VQABatch) -> Tensor:
        """Score the answers: logits (B, C)."""
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        image = self.model.encode_image(batch.pixel_values)
        logits: Tensor = self.head(self.model.pool_pairs(text, image))
        return logits

    def step(self, batch: VQABatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Sum binary cross entropy over answers, average it over the judged questions (the published scaling)."""
        judged = batch.valid & torch.tensor([bool(said) for said in batch.answers], device=batch.valid.device)
        logits, targets = self(batch), batch.targets[judged]
        losses = F.binary_cross_entropy_with_logits(logits[judged].float(), targets, reduction="none").sum(1)
        if stage is Stage.TRAIN:
            self.score(stage, "vqa_accuracy", soft_accuracy(logits[judged], targets).sum(), judged.sum())
        else:
            self.score(stage, "loss", losses.detach().sum(), judged.sum())
            self._judge(batch, logits.argmax(1).tolist(), judged.tolist(), stage)
        return losses.sum() / judged.sum().clamp(min=1)

    def _judge(self, batch: VQABatch, best: Sequence[int], judged: Sequence[bool], stage: Stage) -> None:
        if not any(judged):
            return
        names, rows = self.answer_names(), [row for row, is_judged in enumerate(judged) if is_judged]
        self._official[stage].update(
            [batch.sample_ids[row] for row in rows],
            [names[best[row]] for row in rows],
            [batch.answers[row] for row in rows],
            [safe_name(batch.answer_types[row]) for row in rows],
            [safe_name(batch.question_types[row]) for row in rows],
        )

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Return the official accuracy of a split, overall, by answer type and by question type."""
        scores = self._official[stage].compute()
        self._official[stage].reset()
        return {
            "vqa_accuracy": scores.overall,
            **{f"vqa_accuracy_{name}": share for name, share in scores.per_answer_type.items()},
            **{f"vqa_accuracy_question_{name}": share for name, share in scores.per_question_type.items()},
        }

    def answer_names(self) -> Sequence[str]:
        """Return the names of the C answers.

        Raises:
            UserError: there are none, or not C; the official accuracy compares names, submissions consist of them.
        """
        count = self.options["answers"]
        if self.labels is None or len(self.labels) != count:
            told = "no names" if self.labels is None else f"{len(self.labels)} names"
            raise UserError(f"the task has {told} for its {count} answers: set task.labels to the list of data.answers")
        return self.labels

    def pictures(self, batch: VQABatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw questions with the best answers, and where the model looked."""
        del names
        seen = look(self.model, self, batch)
        return [draw_answers(batch, seen.logits.sigmoid(), seen.heat, self.labels, self.model.pixels)]

    def predict_step(self, batch: VQABatch) -> list[dict[str, object]]:
        """Return the best answer of each valid question, its number and its probability."""
        names, best = self.answer_names(), torch.sigmoid(self(batch).float()).max(1)
        columns = (batch.sample_ids, batch.question_ids, best.indices.tolist(), best.values.tolist())
        return [
            {"id": name, "question_id": question, "prediction": number, "answer": names[number], "probability": share}
            for name, question, number, share, valid in zip(*columns, batch.valid.tolist(), strict=True)
            if valid
        ]

    def official_files(self, rows: Rows) -> dict[str, str]:
        """Return the submission file of VQAv2's leaderboard (visualqa.org/evaluation.html).

        Raises:
            UserError: a question has two answers; the message names it.
        """
        answers: dict[str, str] = {}
        for row in rows:
            question, answer = str(row["question_id"]), str(row["answer"])
            if answers.setdefault(question, answer) != answer:
                raise UserError(
                    f"question {question} is answered twice, {answers[question]!r} and {answer!r} ({row['id']}): "
                    "a submission has one answer a question. Predict one source at a time (data.val_sources)"
                )
        listed = [{"question_id": official_id(question), "answer": answer} for question, answer in answers.items()]
        return {"vqa_submission.json": json.dumps(listed, ensure_ascii=False) + "\n"}


def official_id(question: str) -> int | str:
    """Return a question's id as its annotations have it: VQAv2's are whole numbers, which shards hold as texts."""
    is_number = question.isascii() and question.isdecimal() and str(int(question)) == question
    return int(question) if is_number else question


def safe_name(kind: str) -> str | None:
    """Return the name of a type as a part of a score's name, "yes/no" as "yes_no"; None of no name."""
    return re.sub(r"[\W_]+", "_", kind.lower()).strip("_") or None


Task = VQATask
