"""NLVR2: is the sentence true of the two photos?"""

from __future__ import annotations

from typing import ClassVar

from datamodules.statements import PairBuilder, StatementBuilder, StatementDataModule


class NLVR2DataModule(StatementDataModule):
    """Sentences that are true or false of a left and a right photo."""

    task: ClassVar[str] = "nlvr2"
    builder_type: ClassVar[type[StatementBuilder]] = PairBuilder


DataModule = NLVR2DataModule
