"""NLVR and VSR: is the sentence true of the picture?"""

from __future__ import annotations

from typing import ClassVar

from datamodules.statements import StatementDataModule


class NLVRDataModule(StatementDataModule):
    """Sentences that are true or false of one picture."""

    task: ClassVar[str] = "nlvr"


DataModule = NLVRDataModule
