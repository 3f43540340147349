"""Pre-training on images alone: pictures with hidden patches, and the codes that masked image modelling predicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.base import VisionLanguageDataModule
from datamodules.codebook import Codebook, check_patch_size, open_codebook, patch_codes
from datamodules.dataset import BatchBuilder, BatchHead, pad, record_boxes
from datamodules.images import by_images
from datamodules.masking import covered_patches, draw_blocks, draw_patches
from datamodules.records import Kind
from datamodules.shards import RawSample, ShardFolder
from datamodules.transforms import View
from vle_lightning.batch import DataFacts, ImageBatch

Shape = Literal["blocks", "patches"]  # patches are hidden in rectangles (BEiT), or one by one


@dataclass(frozen=True)
class ImageSample:
    """An image, and the boxes of its objects as seen in the view."""

    boxes: NDArray[np.float32]  # (R, 4) xyxy, normalised


@dataclass(frozen=True)
class Hidden:
    """Which share of the patches is hidden, and in what shape."""

    share: float
    shape: Shape = "blocks"

    def draw(self, rows: int, grid: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Draw the hidden patches (rows, P) of images."""
        if self.shape == "blocks":
            return draw_blocks(rows, grid, self.share, rng)
        return draw_patches(rows, grid[0] * grid[1], self.share, rng)


class ImageBuilder(BatchBuilder[ImageSample, ImageBatch]):
    """Makes batches of images alone; the records' texts, if there are any, are not read."""

    kind: Kind = "images"

    def __init__(self, grid: tuple[int, int], hidden: Hidden, codebook: Codebook) -> None:
        """Keep the options.

        Args:
            grid: height and width of an image in patches.
            hidden: how many patches are hidden, and in what shape.
            codebook: gives the patches their codes.
        """
        self.grid, self.hidden, self.codebook = grid, hidden, codebook

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return no texts: nothing forbids mirroring the picture."""
        del raw
        return ()

    def parse(self, raw: RawSample, view: View) -> ImageSample:
        """Take the boxes out of a record; a bad box raises SampleError."""
        boxes, _ = view.parts(record_boxes(raw.record, raw.where))
        return ImageSample(boxes)

    def collate(self, head: BatchHead, samples: Sequence[ImageSample], rng: np.random.Generator) -> ImageBatch:
        """Make a batch of B images."""
        boxes = pad([sample.boxes for sample in samples], 0, torch.float32)  # a box without area touches nothing
        return ImageBatch(
            **vars(head),
            hidden_patches=torch.from_numpy(self.hidden.draw(len(samples), self.grid, rng)),
            patch_codes=patch_codes(self.codebook, head.pixel_values, self.grid),
            object_patches=torch.from_numpy(covered_patches(boxes.numpy(), self.grid).any(1)),
        )


class PretrainImagesDataModule(VisionLanguageDataModule[ImageSample, ImageBatch]):
    """Images of any shard folders, each once an epoch however many texts or questions it has."""

    task: ClassVar[str] = "pretrain_images"
    kind: ClassVar[Kind] = "images"
    reads_texts: ClassVar[bool] = False

    def __init__(
        self,
        *,
        codebook: str,
        patch_size: int = 16,
        patch_share: float = 0.4,
        hidden_shape: Shape = "blocks",
        **common: Any,  # noqa: ANN401 (the options of the base class)
    ) -> None:
        """Keep the options; nothing is read before `setup`.

        Args:
            codebook: gives patches the codes that are predicted: a file of ``python -m datamodules.codebook``, or
                ``module.Class``, made without arguments, with ``encode(pixels) -> codes`` and the number ``codes``.
            patch_size: of the image encoder in pixels.
            patch_share: share of the patches of an image that are hidden; about 0.4 in BEiT.
            hidden_shape: hide rectangles of patches, as BEiT does (blocks), or patches drawn one by one.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(tokenizer="", **common)
        self.codebook_source, self.patch_size = codebook, patch_size
        self.hidden = Hidden(patch_share, hidden_shape)
        self._codebook: Codebook | None = None

    def check(self) -> None:
        """Check the options as the base class does, and those of masking."""
        super().check()
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"data.image_size {self.image_size} is not a multiple of data.patch_size {self.patch_size}"
            )
        if not 0 < self.hidden.share <= 1:
            raise ValueError(f"data.patch_share is {self.hidden.share}; give a share above 0, at most 1")
        check_patch_size(self.codebook, self.codebook_source, self.patch_size)

    @property
    def codebook(self) -> Codebook:
        """Return the codebook, opened at need."""
        if self._codebook is None:
            self._codebook = open_codebook(self.codebook_source, *self.pixels)
        return self._codebook

    @property
    def sends_bytes(self) -> bool:
        """Say that pixels are normalised on the host, for the codebook reads them."""
        return False

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        facts = super().facts()
        return facts._replace(patch_size=self.patch_size, patch_share=self.hidden.share, codes=self.codebook.codes)

    def accept(self, folder: ShardFolder) -> ShardFolder:
        """Return an opened folder with one sample an image, whatever kind of samples it was made for."""
        return by_images(folder)

    def builder(self) -> ImageBuilder:
        """Make what turns records into batches."""
        side = self.image_size // self.patch_size
        return ImageBuilder((side, side), self.hidden, self.codebook)


DataModule = PretrainImagesDataModule
