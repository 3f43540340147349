"""Pre-training on texts alone: texts with masked words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.dataset import BatchBuilder, BatchHead, MicroBatchDataset
from datamodules.masked_texts import Masking, TextMasker
from datamodules.records import Kind
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.transforms import ImageTransform, View
from vle_lightning.batch import TextBatch

NO_PICTURE = View(1, 1, 0, 0, 1, 1)  # a text has none to crop
READ: tuple[Kind, ...] = ("passages", "texts")  # captions can be read alone, too


class TextBuilder(BatchBuilder[str, TextBatch]):
    """Makes batches of texts alone; what does not fit is cut, as VLMo does."""

    kind: Kind = "passages"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, masking: Masking) -> None:
        """Prepare the vocabulary; see `TextMasker`."""
        self.masker = TextMasker(tokenizer, max_length, masking)

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return the sample's text."""
        return (raw.record.texts[raw.item].text,)

    def parse(self, raw: RawSample, view: View) -> str:
        """Take the text out of a record; an empty one raises SampleError."""
        del view
        text = raw.record.texts[raw.item].text
        if not text.strip():
            raise SampleError("empty text", f"{raw.where} ({raw.sample_id})")
        return text

    def collate(self, head: BatchHead, samples: Sequence[str], rng: np.random.Generator) -> TextBatch:
        """Make a batch of B texts."""
        return TextBatch(
            sample_ids=head.sample_ids,
            valid=head.valid,
            step=head.step,
            number=head.number,
            skipped=head.skipped,
            planned=head.planned,
            **self.masker.mask(samples, rng),
        )


class TextDataset(MicroBatchDataset[str, TextBatch]):
    """Batches of texts, for which no picture is decoded, be it that the records have some."""

    def stack(self, pixels: Sequence[Tensor]) -> Tensor:
        """Return no images."""
        return torch.empty(len(pixels), 0)

    def _load(self, place: tuple[int, int, int], rng: np.random.Generator) -> tuple[RawSample, Tensor, str]:
        source, shard, row = place
        raw = self.folders[source].read(shard, row)
        return raw, torch.empty(0), self.builder.parse(raw, NO_PICTURE)


class PretrainTextsDataModule(VisionLanguageDataModule[str, TextBatch]):
    """Texts of shard folders without images; of folders of captions, the captions."""

    task: ClassVar[str] = "pretrain_texts"
    kind: ClassVar[Kind] = "passages"
    reads_images: ClassVar[bool] = False

    def __init__(
        self,
        *,
        content_words: list[str] | None = None,
        mask_share: float = 0.15,
        whole_words: bool = False,
        **common: Any,  # noqa: ANN401 (the options of the base class)
    ) -> None:
        """Keep the options; nothing is read before `setup`.

        Args:
            content_words: words that the score of restored content words counts.
            mask_share: share of the tokens that MLM restores.
            whole_words: choose whole words instead of tokens.
            common: options of VisionLanguageDataModule; those of pictures mean nothing here.
        """
        super().__init__(**common)
        self.masking = Masking(mask_share, whole_words, tuple(content_words or ()))

    def check(self) -> None:
        """Check the options as the base class does, and the share."""
        super().check()
        if not 0 < self.masking.share <= 1:
            raise ValueError(f"data.mask_share is {self.masking.share}; give a share above 0, at most 1")

    def accept(self, folder: ShardFolder) -> ShardFolder:
        """Return an opened folder of texts; see `VisionLanguageDataModule.accept`."""
        if folder.kind not in READ:
            raise ValueError(
                f"data.sources: {folder.name} holds {folder.kind}, but task {self.task} reads {' or '.join(READ)}"
            )
        return folder

    def training_data(
        self, folders: Sequence[ShardFolder], transform: ImageTransform
    ) -> MicroBatchDataset[str, TextBatch]:
        """Make what reads the micro-batches of the training split."""
        return TextDataset(folders, transform, self.builder(), self.seed)

    def evaluation_data(
        self, folders: Sequence[ShardFolder], transform: ImageTransform
    ) -> MicroBatchDataset[str, TextBatch]:
        """Make what reads the micro-batches of a split that is evaluated."""
        return self.training_data(folders, transform)

    @property
    def pictures_per_sample(self) -> float:
        """Return none."""
        return 0.0

    def builder(self) -> TextBuilder:
        """Make what turns records into batches."""
        return TextBuilder(self.tokenizer, self.max_text_length, self.masking)


DataModule = PretrainTextsDataModule
