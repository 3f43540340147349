"""Statements about images put into classes: what SNLI-VE, NLVR and NLVR2 share."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, DataFacts, StatementBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.metrics.consistency import Consistency
from vle_lightning.metrics.per_class import ClassAccuracy
from vle_lightning.models.backbone import Blind
from vle_lightning.models.heads import classifier, initialise
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Rows, Stage, VisionLanguageTask, per_split
from vle_lightning.tasks.drawings import draw_statements
from vle_lightning.tasks.looks import look
from vle_lightning.tasks.pictures import Names, Picture
from vle_lightning.tasks.portable import FAMILIES, Layout
from vle_lightning.tasks.sheets import draw_confusion


class StatementTask(VisionLanguageTask):
    """Cross entropy over the classes of a statement; METER's head (arXiv 2111.02387) on the pooled pair.

    A subclass is a task: it names its classes, and how many images a statement is about.
    """

    monitor = "val/accuracy"
    CLASSES: ClassVar[tuple[str, ...]] = ("true", "false")
    IMAGES: ClassVar[int] = 1  # of a statement

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        classes: list[str] | None = None,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(head_multiplier=10.0),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and a classifier on the pooled pair, or on both of two pairs.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            classes: their names, as the data module has them; the task's own by default.
            init: a checkpoint or run folder to start from.
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule; the default is METER's.
            seed: of dropout.
        """
        super().__init__(architecture, blind, optim, seed)
        self.classes = tuple(classes or self.CLASSES)
        self.options = {"classes": list(self.classes)}
        self.head = classifier(self.IMAGES * self.model.pooled_width, 2 * self.model.width, len(self.classes))
        initialise(self.head, self.model.init_std)
        self.add_scores(["loss"])
        self._accuracy = per_split(lambda: ClassAccuracy(self.classes))
        self._consistency = per_split(Consistency)
        self.confusion: list[list[int]] | None = None  # (C, C) of the last validation: row true, column predicted
        self.begin(self.start(init, self.heads()))

    def begin(self, source: Pretrained | None) -> None:
        """Prepare what the weights of ``source``, that are in place, do not bring; nothing here."""

    def heads(self) -> dict[str, nn.Module]:
        """Return the classifier by the task's name."""
        return {self.task_name(): self.head}

    def save_pretrained(self, folder: str | Path, layout: Layout = "own") -> None:
        """Write the task; see `PortableTask.save_pretrained`.

        Raises:
            UserError: METER's or VLMo's layout is asked for, which know the classes by their order, and they are others
                here.
        """
        if layout in ("meter", "vlmo") and self.classes != self.CLASSES:
            raise UserError(
                f"{FAMILIES[layout]}'s layout has no place for the classes {', '.join(self.classes)}: there they are "
                f"{', '.join(reversed(self.CLASSES))}; export it in ours"
            )
        super().save_pretrained(folder, layout)

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Add the classes."""
        found = super().disagreements(facts)
        if facts.labels not in (None, self.classes):
            found.append(f"data.classes is {list(facts.labels or ())}, but model.classes {list(self.classes)}")
        return found

    def pool(self, batch: StatementBatch) -> Tensor:
        """Encode and fuse: the pooled pairs (B, IMAGES * 2D)."""
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        return self.model.pool_pairs(text, self.model.encode_image(batch.pixel_values))

    def forward(self, batch: StatementBatch) -> Tensor:
        """Score the classes: logits (B, C)."""
        logits: Tensor = self.head(self.pool(batch))
        return logits

    def step(self, batch: StatementBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Average cross entropy over the statements whose class is known."""
        logits = self(batch)
        known = batch.valid & (batch.targets != IGNORED)
        losses = F.cross_entropy(logits[known].float(), batch.targets[known], reduction="none")
        guesses = logits.detach().argmax(1)
        if stage is Stage.TRAIN:
            self.score(stage, "accuracy", ((guesses == batch.targets) & known).sum(), known.sum())
        else:
            self.score(stage, "loss", losses.detach().sum(), known.sum())
            self._judge(batch, guesses, known, stage)
        return losses.sum() / known.sum().clamp(min=1)

    def _judge(self, batch: StatementBatch, guesses: Tensor, known: Tensor, stage: Stage) -> None:
        rows = known.nonzero().squeeze(1).tolist()
        names = [batch.sample_ids[row] for row in rows]
        self._accuracy[stage].update(names, batch.targets[known], guesses[known])
        right = (guesses == batch.targets).tolist()
        grouped = [row for row in rows if batch.groups[row]]
        self._consistency[stage].update(
            [batch.sample_ids[row] for row in grouped],
            [batch.groups[row] for row in grouped],
            [right[row] for row in grouped],
        )

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Return accuracy, that of each class, and consistency where statements have groups."""
        by_class, by_group = self._accuracy[stage].compute(), self._consistency[stage].compute()
        self._accuracy[stage].reset()
        self._consistency[stage].reset()
        self.confusion = by_class.confusion
        each = {f"accuracy_{name}": share for name, share in by_class.per_class.items()}
        return {"accuracy": by_class.accuracy, **each, "consistency": by_group.consistency}

    def pictures(self, batch: StatementBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw statements with the model's classes, and where it looked."""
        del names
        seen = look(self.model, self, batch)
        return [draw_statements(batch, seen.logits.softmax(1), seen.heat, self.classes, self.model.pixels)]

    def split_pictures(self, stage: Stage) -> Iterable[Picture]:
        """Draw the confusion matrix of the split that was scored last."""
        del stage
        return [draw_confusion(self.confusion, self.classes)] if self.confusion else []

    def predict_step(self, batch: StatementBatch) -> list[dict[str, object]]:
        """Return the class of each valid statement by number and name, the true one if known, and probabilities."""
        probabilities = self(batch).float().softmax(-1)
        columns: tuple[Iterable[object], ...] = (
            batch.sample_ids,
            batch.statement_ids,
            batch.groups,
            probabilities.argmax(1).tolist(),
            batch.targets.tolist(),
            probabilities.tolist(),
            batch.valid.tolist(),
        )
        return [
            {
                "id": name,
                "statement_id": statement,
                "group": group,
                "prediction": guess,
                "class": self.classes[guess],
                "target": None if target == IGNORED else target,
                "probabilities": shares,
            }
            for name, statement, group, guess, target, shares, valid in zip(*columns, strict=True)
            if valid
        ]

    def official_files(self, rows: Rows) -> dict[str, str]:
        """Return ``predictions.csv``, as NLVR's scorers read it: identifier and class of each statement, no header.

        Raises:
            UserError: two rows are of one statement.
        """
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        seen: set[object] = set()
        for row in rows:
            if row["statement_id"] in seen:
                raise UserError(
                    f"statement {row['statement_id']!r} was predicted twice: name one source in data.val_sources"
                )
            seen.add(row["statement_id"])
            writer.writerow((self.identifier(row), row["class"]))
        return {"predictions.csv": table.getvalue()}

    def identifier(self, row: Mapping[str, object]) -> str:
        """Return what the leaderboard calls the statement of a row of `predict_step`."""
        return str(row["statement_id"])
