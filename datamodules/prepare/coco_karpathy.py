"""COCO captions in Karpathy's splits (arXiv 1412.2306): 113,287 photos for training, 5,000 each for val and test."""

from __future__ import annotations

from pathlib import Path

from datamodules.prepare.karpathy import RESTVAL, KarpathyDataset


class Dataset(KarpathyDataset):
    """``dataset_coco.json``, ``train2014/`` and ``val2014/``, which hold images of all splits."""

    name = "coco"
    folders = ("train2014", "val2014", "images")

    def __init__(self, src: Path, restval: bool = True) -> None:
        """Take the raw folder and what training is.

        Args:
            src: Raw folder.
            restval: Train on the 30,504 images "restval" too, as all published retrieval scores do.
        """
        super().__init__(src)
        self.restval = restval

    def labels(self, split: str) -> tuple[str, ...]:
        """Return what the file calls the images of a split."""
        labels = super().labels(split)
        return (*labels, RESTVAL) if split == "train" and self.restval else labels
