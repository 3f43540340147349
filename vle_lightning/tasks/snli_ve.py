"""SNLI-VE (arXiv 1901.06706): visual entailment in three classes."""

from __future__ import annotations

from typing import ClassVar

from vle_lightning.tasks.statements import StatementTask


class SNLIVETask(StatementTask):
    """Does the photo entail the sentence, contradict it, or leave it open?"""

    CLASSES: ClassVar[tuple[str, ...]] = ("entailment", "neutral", "contradiction")


Task = SNLIVETask
