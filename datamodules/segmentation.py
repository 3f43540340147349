"""Semantic segmentation: images with the class of each pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.class_list import ClassListDataModule
from datamodules.dataset import BatchBuilder, BatchHead
from datamodules.masks import cut_mask, decode_mask, see_mask
from datamodules.records import Kind
from datamodules.shards import RawSample, SampleError
from datamodules.transforms import View
from vle_lightning.batch import IGNORED, MaskBatch


class SeenMask(NamedTuple):
    """A mask as a view shows it: class + 1 at each pixel, 0 for none."""

    scaled: Tensor  # (S, S) uint8
    own: Tensor | None  # (h, w) uint8, at the size that it was drawn in; None in training


class MaskBuilder(BatchBuilder[SeenMask, MaskBatch]):
    """Makes batches of masks; draws nothing."""

    kind: Kind = "masks"

    def __init__(self, image_size: int, classes: int, keep_own: bool) -> None:
        """Take pictures of ``image_size`` pixels and masks of ``classes``; ``keep_own``: at their own size, too."""
        self.image_size, self.classes, self.keep_own = image_size, classes, keep_own

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return none: a mask is mirrored with its picture."""
        del raw
        return ()

    def parse(self, raw: RawSample, view: View) -> SeenMask:
        """Decode the mask of a record and look at it as at the picture.

        Raises:
            SampleError: it cannot be read, is of another size than the picture, or has a number of no class.
        """
        where = f"{raw.where} ({raw.sample_id})"
        if raw.right is None:
            raise SampleError("image without a mask", where)
        try:
            mask = decode_mask(raw.right)
        except ValueError as error:
            raise SampleError("unreadable mask", f"{where}: {error}") from error
        if mask.shape != (view.height, view.width):
            told = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image {view.width} x {view.height}"
            raise SampleError("mask of another size", f"{where}: {told}")
        if int(mask.max()) > self.classes:
            raise SampleError("unknown class in the mask", f"{where}: {int(mask.max())} of {self.classes} classes")
        return SeenMask(see_mask(mask, view, self.image_size), cut_mask(mask, view) if self.keep_own else None)

    def collate(self, head: BatchHead, samples: Sequence[SeenMask], rng: np.random.Generator) -> MaskBatch:
        """Make a batch of B samples."""
        del rng
        numbers = torch.stack([sample.scaled for sample in samples]).long() - 1
        own = tuple(sample.own.numpy() for sample in samples if sample.own is not None)
        return MaskBatch(**vars(head), targets=numbers.masked_fill(numbers < 0, IGNORED), own_targets=own)


class SegmentationDataModule(ClassListDataModule[SeenMask, MaskBatch]):
    """Images with masks of a list of classes."""

    task: ClassVar[str] = "segmentation"
    kind: ClassVar[Kind] = "masks"

    def builder(self) -> MaskBuilder:
        """Make what turns records into batches of training."""
        return MaskBuilder(self.image_size, len(self.labels()), keep_own=False)

    def eval_builder(self) -> MaskBuilder:
        """Make what turns records into batches that are scored at each mask's own size."""
        return MaskBuilder(self.image_size, len(self.labels()), keep_own=True)


DataModule = SegmentationDataModule
