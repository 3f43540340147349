"""Captioned images for retrieval by a dual encoder, whose negatives are the other pairs of a step."""

from __future__ import annotations

from typing import Any, ClassVar

from datamodules.retrieval import RetrievalDataModule


class DualRetrievalDataModule(RetrievalDataModule):
    """Captioned images; a micro-batch draws no negatives of its own."""

    task: ClassVar[str] = "dual_retrieval"

    def __init__(self, **common: Any) -> None:  # noqa: ANN401 (the base class's options)
        """Keep the options of VisionLanguageDataModule; nothing is read before `setup`."""
        super().__init__(negatives=1, **common)


DataModule = DualRetrievalDataModule
