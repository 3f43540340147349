"""Pre-training: texts with masked words and mismatched partners, pictures with drawn boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.classes import read_classes
from datamodules.dataset import BatchBuilder, BatchHead, pad, record_boxes
from datamodules.masking import draw_boxes, mask_tokens, pair_partners
from datamodules.records import Kind
from datamodules.shards import RawSample, SampleError
from datamodules.texts import mark_words, tokenise, word_pattern
from datamodules.transforms import View
from vle_lightning.batch import DataFacts, PretrainBatch


@dataclass(frozen=True)
class PretrainSample:
    """One text on one image; boxes as seen in the view, those that the crop lost left out."""

    image_id: str
    text: str
    boxes: NDArray[np.float32]  # (R, 4) xyxy, normalised
    classes: NDArray[np.int64]  # (R,); -1 where the name has no class
    mentioned: NDArray[np.bool_]  # (R,)


@dataclass(frozen=True)
class Masking:
    """How tokens are masked and counted."""

    share: float = 0.15
    whole_words: bool = False
    content_words: tuple[str, ...] = ()


class PretrainBuilder(BatchBuilder[PretrainSample, PretrainBatch]):
    """Makes pre-training batches; draws masks, then partners, then boxes."""

    kind: Kind = "texts"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        grid: tuple[int, int],
        classes: dict[str, int],
        masking: Masking = Masking(),  # noqa: B008 (frozen)
    ) -> None:
        """Prepare the vocabulary.

        Args:
            tokenizer: with the fast backend.
            max_length: of a text in tokens, special ones included.
            grid: height and width of an image in patches, for the bound on hidden patches.
            classes: class number by name.
            masking: how tokens are masked.
        """
        self.tokenizer, self.max_length, self.grid, self.classes = tokenizer, max_length, grid, classes
        self.masking, self.content = masking, word_pattern(masking.content_words)
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return the sample's text."""
        return (raw.record.texts[raw.item].text,)

    def parse(self, raw: RawSample, view: View) -> PretrainSample:
        """Take text and boxes out of a record; an empty text or a bad box raises SampleError."""
        record, text = raw.record, raw.record.texts[raw.item]
        if not text.text.strip():
            raise SampleError("empty text", f"{raw.where} ({raw.sample_id})")
        boxes, kept = view.move(record_boxes(record, raw.where))
        mentioned = np.zeros(len(boxes), dtype=bool)
        if wrong := [box for box in text.boxes or () if not 0 <= box < len(boxes)]:
            raise SampleError(
                "bad mention", f"{raw.where} ({raw.sample_id}): {len(boxes)} boxes, but {wrong} mentioned"
            )
        mentioned[list(text.boxes or ())] = True
        classes = np.array([self.classes.get(name, -1) for name in record.names], dtype=np.int64)
        return PretrainSample(record.image_id, text.text, boxes[kept], classes[kept], mentioned[kept])

    def collate(self, head: BatchHead, samples: Sequence[PretrainSample], rng: np.random.Generator) -> PretrainBatch:
        """Make a batch of B samples."""
        texts = tuple(sample.text for sample in samples)
        tokens = tokenise(self.tokenizer, texts, self.max_length)
        mask_id = self.tokenizer.mask_token_id
        assert isinstance(mask_id, int)
        masked, targets = mask_tokens(
            tokens.ids,
            tokens.special,
            rng,
            mask_id=mask_id,
            ordinary=self.ordinary,
            share=self.masking.share,
            word_starts=tokens.word_starts if self.masking.whole_words else None,
        )
        partner = pair_partners(np.array([sample.image_id for sample in samples]), rng)
        boxes = pad([sample.boxes for sample in samples], 0, torch.float32)
        classes = pad([sample.classes for sample in samples], -1, torch.int64)
        drawn = draw_boxes(boxes.numpy(), classes.numpy(), rng, self.grid)
        hidden = [(boxes[row, of], classes[row, of]) for row, of in enumerate(torch.from_numpy(drawn))]
        return PretrainBatch(
            **vars(head),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            texts=texts,
            masked_input_ids=torch.from_numpy(masked),
            mlm_targets=torch.from_numpy(targets),
            mlm_content=torch.from_numpy(tokens.spread(mark_words(texts, self.content)) == 1),
            partner=torch.from_numpy(partner),
            boxes=boxes,
            box_valid=pad([np.ones(len(sample.boxes), dtype=bool) for sample in samples], 0, torch.bool),
            box_mentioned=pad([sample.mentioned for sample in samples], 0, torch.bool),
            hidden_boxes=pad([part.numpy() for part, _ in hidden], 0, torch.float32),
            hidden_classes=pad([part.numpy() for _, part in hidden], -1, torch.int64),
        )


class PretrainDataModule(VisionLanguageDataModule[PretrainSample, PretrainBatch]):
    """Image-text pairs with boxes from any number of sources."""

    task: ClassVar[str] = "pretrain"
    kind: ClassVar[Kind] = "texts"

    def __init__(
        self,
        *,
        classes: list[str] | str | None = None,
        class_count: int | None = None,
        patch_size: int = 16,
        content_words: list[str] | None = None,
        mask_share: float = 0.15,
        whole_words: bool = False,
        **common: Any,  # noqa: ANN401 (the options of the base class)
    ) -> None:
        """Keep the options; nothing is read before `setup`.

        Args:
            classes: names of the box classes that MPC tells apart, or a JSON file: names, or {name: number}.
            class_count: how many classes the model tells apart; as many as ``classes`` needs by default.
            patch_size: of the image tower in pixels; MPC hides at most half of the patches.
            content_words: words that the score of restored content words counts.
            mask_share: share of the tokens that MLM restores.
            whole_words: choose whole words instead of tokens.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.class_source, self.class_count, self.patch_size = classes, class_count, patch_size
        self.masking = Masking(mask_share, whole_words, tuple(content_words or ()))
        self.unmapped_classes: dict[str, int] = {}  # boxes by name that ``classes`` does not have; they serve PBC only

    def check(self) -> None:
        """Check the options as the base class does, and the classes."""
        super().check()
        if not 0 < self.masking.share <= 1:
            raise ValueError(f"data.mask_share is {self.masking.share}; give a share above 0, at most 1")
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(f"data.image_size {self.image_size} is no multiple of data.patch_size {self.patch_size}")
        self.read_classes()

    def read_classes(self) -> dict[str, int]:
        """Return the class number by name."""
        return read_classes(self.class_source, self.class_count)

    @property
    def class_names(self) -> list[str]:
        """Return a name for each class, the first of several; "" where no name has that number."""
        classes = self.read_classes()
        names = [""] * (self.class_count or 1 + max(classes.values(), default=-1))
        for name, number in reversed(classes.items()):
            names[number] = name
        return names

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        return super().facts()._replace(patch_size=self.patch_size, classes=len(self.class_names))

    def labels(self) -> list[str]:
        """Return the names of the classes."""
        return self.class_names

    def setup(self, stage: str) -> None:
        """Open the shards, and report the boxes whose names have no class."""
        super().setup(stage)
        classes = self.read_classes()
        self.unmapped_classes = {}
        for folder in self.folders():
            for name, count in folder.manifest.classes.items():
                if name and name not in classes:
                    self.unmapped_classes[name] = self.unmapped_classes.get(name, 0) + count
        if self.unmapped_classes and self.class_source:
            told = ", ".join(f"{name} ({count})" for name, count in sorted(self.unmapped_classes.items())[:20])
            total = sum(self.unmapped_classes.values())
            rank_zero_info(f"data.classes lacks {len(self.unmapped_classes)} names of {total} boxes (PBC only): {told}")

    def builder(self) -> PretrainBuilder:
        """Make what turns records into batches."""
        side = self.image_size // self.patch_size
        return PretrainBuilder(self.tokenizer, self.max_text_length, (side, side), self.read_classes(), self.masking)


DataModule = PretrainDataModule
