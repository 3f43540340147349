"""Image-text retrieval: training pairs with the texts of other images, evaluation over images with all their texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.dataset import BatchBuilder, BatchHead, row_keys
from datamodules.images import ImagesOfFolder
from datamodules.records import Kind, Text
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.texts import tokenise
from datamodules.transforms import View
from vle_lightning.batch import RetrievalBatch, Skip

NEGATIVES = 15  # METER's draw_false_text (arXiv 2111.02387)


@dataclass(frozen=True)
class RetrievalSample:
    """An image's texts: one of them in training, all that can be used in evaluation."""

    image_id: str
    text_ids: tuple[str, ...]  # the image's id, then the text's: unique over sources
    texts: tuple[str, ...]
    skipped: tuple[Skip, ...]  # texts that cannot be used


class RetrievalBuilder(BatchBuilder[RetrievalSample, RetrievalBatch]):
    """Makes batches of images and their texts; draws which texts of the micro-batch each image is compared with."""

    kind: Kind = "texts"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, negatives: int, *, all_texts: bool = False
    ) -> None:
        """Keep the options.

        Args:
            tokenizer: with the fast backend.
            max_length: of a text in tokens, special ones included.
            negatives: how many texts of other images each image is compared with, at most.
            all_texts: a sample is an image with all its texts, and nothing is drawn: for evaluation.
        """
        self.tokenizer, self.max_length = tokenizer, max_length
        self.negatives, self.all_texts = negatives, all_texts

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return the sample's texts."""
        return (text.text for text in self._texts_of(raw))

    def parse(self, raw: RawSample, view: View) -> RetrievalSample:
        """Take the texts out of a record; a text without any token is left out, and an image without texts."""
        del view
        usable, skipped = [], []
        for text in self._texts_of(raw):
            if self.tokenizer.tokenize(text.text.strip()):
                usable.append(text)
            else:
                skipped.append(Skip("empty text", f"{raw.where} ({raw.record.image_id}/{text.id})", lost=False))
        if not usable:
            told = "image without text" if self.all_texts else "empty text"
            raise SampleError(told, f"{raw.where} ({raw.sample_id})")
        image_id = raw.record.image_id
        ids, texts = zip(*((f"{image_id}/{text.id}", text.text) for text in usable), strict=True)
        return RetrievalSample(image_id, ids, texts, tuple(skipped))

    def collate(self, head: BatchHead, samples: Sequence[RetrievalSample], rng: np.random.Generator) -> RetrievalBatch:
        """Make a batch of B images; ``shifts`` are distinct, so that no text stands twice beside an image."""
        rows = len(samples)
        texts = tuple(text for sample in samples for text in sample.texts)
        tokens = tokenise(self.tokenizer, texts, self.max_length)
        image_ids = tuple(sample.image_id for sample in samples)
        count = 0 if self.all_texts else min(self.negatives, rows - 1)
        skipped = (*head.skipped, *(skip for sample in samples for skip in sample.skipped))
        head = replace(head, skipped=skipped, sample_ids=image_ids if self.all_texts else head.sample_ids)
        return RetrievalBatch(
            **vars(head),
            keys=row_keys(head.sample_ids, image_ids, [sample.texts[0] for sample in samples]),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            owners=torch.arange(rows).repeat_interleave(torch.tensor([len(sample.texts) for sample in samples])),
            image_ids=image_ids,
            text_ids=tuple(name for sample in samples for name in sample.text_ids),
            texts=texts,
            shifts=torch.from_numpy(1 + rng.choice(rows - 1, count, replace=False) if count else np.empty(0, np.int64)),
        )

    def _texts_of(self, raw: RawSample) -> tuple[Text, ...]:
        return raw.record.texts if self.all_texts else (raw.record.texts[raw.item],)


def check_distinct(folders: Sequence[ImagesOfFolder]) -> None:
    """Make sure that no image comes twice, in one source or in two.

    To merge its texts would need a batch that reads two shards, and an image in two sources is a slip rather than
    meant: the texts that are right for it would be counted as wrong ones of the other.

    Raises:
        ValueError: names the first such image and its two places.
    """
    numbers = [folder.numbers() for folder in folders]
    _, first, counts = np.unique(np.concatenate(numbers), return_index=True, return_counts=True)
    if (counts == 1).all():
        return
    starts = np.cumsum([0, *map(len, numbers)])
    twice = np.concatenate(numbers)[first[counts > 1].min()]
    one, other = np.flatnonzero(np.concatenate(numbers) == twice)[:2].tolist()
    places = [int(np.searchsorted(starts, place, side="right")) - 1 for place in (one, other)]
    found = [folders[k].locate(place - int(starts[k])) for k, place in zip(places, (one, other), strict=True)]
    raise ValueError(
        f"image {found[0].record.image_id!r} is there twice, in {found[0].where} and in {found[1].where}: retrieval "
        "is evaluated over images that differ, each with all its texts. Evaluate one source (data.val_sources), or "
        "make the shards again with one record an image"
    )


class RetrievalDataModule(VisionLanguageDataModule[RetrievalSample, RetrievalBatch]):
    """Captioned images. Training reads a text at a time; evaluation an image with all its texts.

    So ``limit_val`` counts images.
    """

    task: ClassVar[str] = "retrieval"
    kind: ClassVar[Kind] = "texts"

    def __init__(self, *, negatives: int = NEGATIVES, **common: Any) -> None:  # noqa: ANN401 (the base class's options)
        """Keep the options; nothing is read before `setup`.

        Args:
            negatives: texts of other images that each image of a micro-batch is compared with in training, and so
                many images each text; at most one less than ``batch_size``, as they come from the micro-batch.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.negatives = negatives
        self._images: dict[str, list[ImagesOfFolder]] = {}  # by split

    def check(self) -> None:
        """Check the options as the base class does, and the negatives.

        Raises:
            ValueError: an option is out of range; names the key.
        """
        super().check()
        if self.negatives < 1:
            raise ValueError(f"data.negatives is {self.negatives}; it must be at least 1")
        if self.batch_size < 2:
            raise ValueError(
                "data.batch_size is 1, but the negatives of an image are the texts of others in its micro-batch: "
                f"give {self.negatives + 1}, or at least 2"
            )

    def setup(self, stage: str) -> None:
        """Open what a stage reads, as the base class does, and find the images of what it evaluates.

        Raises:
            ValueError: an image comes twice; names it.
        """
        super().setup(stage)
        evaluated: dict[str, tuple[str | None, ...]] = {
            "fit": (self.val_split, self.test_split),
            "validate": (self.val_split,),
            "test": (self.test_split,),
            "predict": (self.predict_split,),
        }
        for split in evaluated[stage]:
            if split is not None:
                self.eval_folders(split)

    def eval_folders(self, split: str) -> Sequence[ShardFolder]:
        """Return the folders of a split, image by image."""
        if split not in self._images:
            folders = [ImagesOfFolder(folder) for folder in self._folders[split]]
            check_distinct(folders)
            self._images[split] = folders
        return self._images[split]

    def builder(self) -> RetrievalBuilder:
        """Make what turns records into training batches."""
        return RetrievalBuilder(self.tokenizer, self.max_text_length, self.negatives)

    def eval_builder(self) -> RetrievalBuilder:
        """Make what turns records into batches of images with all their texts."""
        return RetrievalBuilder(self.tokenizer, self.max_text_length, self.negatives, all_texts=True)


DataModule = RetrievalDataModule
