"""SNLI-VE: does the photo entail the sentence, contradict it, or leave it open?"""

from __future__ import annotations

from typing import ClassVar

from datamodules.statements import StatementDataModule


class SNLIVEDataModule(StatementDataModule):
    """Sentences of three classes about a photo."""

    task: ClassVar[str] = "snli_ve"
    CLASSES: ClassVar[tuple[str, ...]] = ("entailment", "neutral", "contradiction")


DataModule = SNLIVEDataModule
