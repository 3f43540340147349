"""What image classification and segmentation share: a list of classes, and no texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from datamodules.base import VisionLanguageDataModule
from datamodules.classes import read_classes
from vle_lightning.batch import Batch, DataFacts

SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT", bound=Batch)


class ClassListDataModule(VisionLanguageDataModule[SampleT, BatchT]):
    """Images that are put into the classes of a list, or whose pixels are. A subclass says what its samples are."""

    reads_texts: ClassVar[bool] = False

    def __init__(self, *, classes: Path, **common: Any) -> None:  # noqa: ANN401 (the options of the base class)
        """Keep the options; nothing is read before `setup`.

        Args:
            classes: JSON list of the C classes, ``classes.json`` beside the splits of the shards.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.class_file = Path(classes)

    def check(self) -> None:
        """Check the options as the base class does, and the classes."""
        super().check()
        self.labels()

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        return super().facts()._replace(classes=len(self.labels()))

    def labels(self) -> list[str]:
        """Return the classes in order.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not JSON list of different names, or has fewer than two.
        """
        numbers = read_classes(str(self.class_file))
        names = sorted(numbers, key=numbers.__getitem__)
        if len(names) < 2 or [numbers[name] for name in names] != list(range(len(names))):
            raise ValueError(f"data.classes {self.class_file} must be a JSON list of at least two class names")
        return names
