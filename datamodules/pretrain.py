"""Pre-training: texts with masked words and mismatched partners, pictures with drawn boxes and patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.base import VisionLanguageDataModule
from datamodules.classes import read_classes
from datamodules.codebook import Codebook, check_patch_size, open_codebook, patch_codes
from datamodules.dataset import BatchBuilder, BatchHead, MicroBatchDataset, pad, record_boxes, row_keys
from datamodules.masked_texts import Masking, TextMasker
from datamodules.masking import draw_boxes, draw_patches, pair_partners
from datamodules.records import Kind
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.texts import SIDES
from datamodules.transforms import ImageTransform, View
from vle_lightning.batch import DataFacts, PretrainBatch, Skip

ItmImages = Literal["shifted", "drawn", "none"]
DRAWN = 1  # last number of the seed of drawn images; none is like 0


@dataclass(frozen=True)
class PretrainSample:
    """One text on one image; boxes as seen in the view, those that the crop lost left out."""

    image_id: str
    text: str
    boxes: NDArray[np.float32]  # (R, 4) xyxy, normalised
    classes: NDArray[np.int64]  # (R,); -1 where the name has no class
    mentioned: NDArray[np.bool_]  # (R,)


class PretrainBuilder(BatchBuilder[PretrainSample, PretrainBatch]):
    """Makes pre-training batches; draws masks, then partners, then boxes, and patches by a generator of their own."""

    kind: Kind = "texts"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        grid: tuple[int, int],
        classes: dict[str, int],
        masking: Masking = Masking(),  # noqa: B008 (frozen)
        codebook: Codebook | None = None,
        mismatches: bool = True,
    ) -> None:
        """Prepare the vocabulary.

        Args:
            tokenizer: with the fast backend.
            max_length: of a text in tokens, special ones included.
            grid: height and width of an image in patches.
            classes: class number by name.
            masking: how tokens and patches are masked.
            codebook: gives the patches their codes; None: they have none.
            mismatches: lay another's text beside half of the images, for ITM.
        """
        self.masker, self.grid, self.classes = TextMasker(tokenizer, max_length, masking), grid, classes
        self.patch_share, self.codebook, self.mismatches = masking.patch_share, codebook, mismatches

    def words(self, raw: RawSample) -> Iterable[str]:
        """Return the sample's text."""
        return (raw.record.texts[raw.item].text,)

    def parse(self, raw: RawSample, view: View) -> PretrainSample:
        """Take text and boxes out of a record; an empty text or a bad box raises SampleError."""
        record, text = raw.record, raw.record.texts[raw.item]
        if not text.text.strip():
            raise SampleError("empty text", f"{raw.where} ({raw.sample_id})")
        whole = record_boxes(record, raw.where)
        mentioned = np.zeros(len(whole), dtype=bool)
        if wrong := [box for box in text.boxes or () if not 0 <= box < len(whole)]:
            raise SampleError(
                "bad mention", f"{raw.where} ({raw.sample_id}): {len(whole)} boxes, but {wrong} mentioned"
            )
        mentioned[list(text.boxes or ())] = True
        classes = np.array([self.classes.get(name, -1) for name in record.names], dtype=np.int64)
        boxes, of = view.parts(whole)
        return PretrainSample(record.image_id, text.text, boxes, classes[of], mentioned[of])

    def collate(self, head: BatchHead, samples: Sequence[PretrainSample], rng: np.random.Generator) -> PretrainBatch:
        """Make a batch of B samples."""
        texts = tuple(sample.text for sample in samples)
        masked = self.masker.mask(texts, rng)
        partner = np.arange(len(samples))
        if self.mismatches:
            partner = pair_partners(np.array([sample.image_id for sample in samples]), rng)
        boxes = pad([sample.boxes for sample in samples], 0, torch.float32)
        classes = pad([sample.classes for sample in samples], -1, torch.int64)
        drawn = draw_boxes(boxes.numpy(), classes.numpy(), rng, self.grid)
        hidden = [(boxes[row, of], classes[row, of]) for row, of in enumerate(torch.from_numpy(drawn))]
        (patching,) = rng.spawn(1)  # the draws above stay what they are without it
        patches = draw_patches(len(samples), self.grid[0] * self.grid[1], self.patch_share, patching)
        return PretrainBatch(
            **vars(head),
            **masked,
            keys=row_keys(head.sample_ids, [sample.image_id for sample in samples], texts),
            partner=torch.from_numpy(partner),
            drawn_rows=torch.zeros(0, dtype=torch.int64),
            drawn_pixel_values=head.pixel_values.new_empty(0, *head.pixel_values.shape[1:]),
            boxes=boxes,
            box_valid=pad([np.ones(len(sample.boxes), dtype=bool) for sample in samples], 0, torch.bool),
            box_mentioned=pad([sample.mentioned for sample in samples], 0, torch.bool),
            hidden_boxes=pad([part.numpy() for part, _ in hidden], 0, torch.float32),
            hidden_classes=pad([part.numpy() for _, part in hidden], -1, torch.int64),
            hidden_patches=torch.from_numpy(patches),
            patch_codes=patch_codes(self.codebook, head.pixel_values, self.grid),
        )


class DrawingDataset(MicroBatchDataset[PretrainSample, PretrainBatch]):
    """Pre-training batches in which half of the texts get an image from the whole data for ITM, as METER's do.

    Each sample of all sources is drawn equally often, whatever the weight of its source. The draws have a generator of
    their own, keyed by the micro-batch: the masks, boxes and crops are those of batches without drawn images.
    """

    def finish(self, head: BatchHead, samples: Sequence[PretrainSample], rng: np.random.Generator) -> PretrainBatch:
        """Make the batch of B samples; B // 2 images are drawn, and one that cannot be used leaves its pair a match."""
        batch = self.builder.collate(head, samples, rng)
        own = np.random.default_rng((self.seed, head.step, head.number, DRAWN))
        chosen = np.sort(own.permutation(len(samples))[: len(samples) // 2])
        rows: list[int] = []
        images: list[Tensor] = []
        skipped: list[Skip] = []
        partner = torch.arange(len(samples))
        for row, place in zip(chosen.tolist(), self.draw_places(len(chosen), own), strict=True):
            try:
                raw, image, _ = self.read(place)
            except SampleError as error:
                skipped.append(Skip(error.kind, error.where, lost=False))
                continue
            may_flip = self.transform.flip and not SIDES.search(samples[row].text)
            view = self.transform.draw(own, image.shape[2], image.shape[1], may_flip=may_flip)
            rows.append(row)
            images.append(self.transform.apply(image, view))
            if raw.record.image_id != samples[row].image_id:
                partner[row] = -1
        pixels = self.transform.normalise(images) if images else batch.drawn_pixel_values
        return replace(
            batch,
            partner=partner,
            drawn_rows=torch.tensor(rows, dtype=torch.int64),
            drawn_pixel_values=pixels,
            skipped=(*batch.skipped, *skipped),
        )

    def draw_places(self, count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
        """Draw source, shard and row of samples, each equally likely and with replacement."""
        shards = [(source, *pair) for source, of in enumerate(self.folders) for pair in enumerate(of.shard_sizes)]
        ends = np.cumsum([size for _, _, size in shards])
        numbers = rng.integers(ends[-1], size=count)
        found = np.searchsorted(ends, numbers, side="right")
        rows = ends[found] - 1 - numbers  # counted from the shard's end, which is as good
        return [(*shards[which][:2], row) for which, row in zip(found.tolist(), rows.tolist(), strict=True)]


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
        patch_share: float = 0.0,
        codebook: str | None = None,
        itm_images: ItmImages = "shifted",
        **common: Any,  # noqa: ANN401 (the options of the base class)
    ) -> None:
        """Keep the options; nothing is read before `setup`.

        Args:
            classes: names of the box classes that MPC tells apart, or a JSON file: names, or {name: number}.
            class_count: how many classes the model tells apart; as many as ``classes`` needs by default.
            patch_size: of the image tower in pixels; patches are what MPC and MIM hide.
            content_words: words that the score of restored content words counts.
            mask_share: share of the tokens that MLM restores.
            whole_words: choose whole words instead of tokens.
            patch_share: share of the patches of an image that are hidden for MIM, such as 0.15; 0 is none.
            codebook: gives patches the codes that mim_codes predicts: a file of ``python -m datamodules.codebook``,
                or ``module.Class``, made without arguments, with ``encode(pixels) -> codes`` and the number ``codes``.
            itm_images: what ITM's mismatches are in training: half of the images of a micro-batch beside another one's
                text (shifted), or half of the texts beside an image drawn from the whole training data (drawn). With
                none there are no mismatches: without ITM, PBC then learns from all pairs.
            common: options of VisionLanguageDataModule.
        """
        super().__init__(**common)
        self.class_source, self.class_count, self.patch_size = classes, class_count, patch_size
        self.masking = Masking(mask_share, whole_words, tuple(content_words or ()), patch_share)
        self.codebook_source, self.itm_images = codebook, itm_images
        self._codebook: Codebook | None = None
        self.unmapped_classes: dict[str, int] = {}  # boxes by name that ``classes`` does not have; they serve PBC only

    def check(self) -> None:
        """Check the options as the base class does, and the classes."""
        super().check()
        if not 0 < self.masking.share <= 1:
            raise ValueError(f"data.mask_share is {self.masking.share}; give a share above 0, at most 1")
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"data.image_size {self.image_size} is not a multiple of data.patch_size {self.patch_size}"
            )
        if not 0 <= self.masking.patch_share <= 1:
            raise ValueError(f"data.patch_share is {self.masking.patch_share}; give a share of at least 0, at most 1")
        check_patch_size(self.codebook, self.codebook_source, self.patch_size)
        self.read_classes()

    def read_classes(self) -> dict[str, int]:
        """Return the class number by name."""
        return read_classes(self.class_source, self.class_count)

    @property
    def codebook(self) -> Codebook | None:
        """Return the codebook, opened at need; None without one."""
        if self._codebook is None and self.codebook_source is not None:
            self._codebook = open_codebook(self.codebook_source, *self.pixels)
        return self._codebook

    @property
    def class_names(self) -> list[str]:
        """Return a name for each class, the first of several; "" where no name has that number."""
        classes = self.read_classes()
        names = [""] * (self.class_count or 1 + max(classes.values(), default=-1))
        for name, number in reversed(classes.items()):
            names[number] = name
        return names

    @property
    def sends_bytes(self) -> bool:
        """Say whether pixels go to the device as bytes: not where a codebook reads them before."""
        return self.codebook is None and super().sends_bytes

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        facts, codes = super().facts(), None if self.codebook is None else self.codebook.codes
        share, classes = self.masking.patch_share, len(self.class_names)
        return facts._replace(
            patch_size=self.patch_size,
            classes=classes,
            patch_share=share,
            codes=codes,
            mismatches=self.itm_images != "none",
        )

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

    def training_data(
        self, folders: Sequence[ShardFolder], transform: ImageTransform
    ) -> MicroBatchDataset[PretrainSample, PretrainBatch]:
        """Make what reads the micro-batches of the training split, with drawn images where ITM asks for them."""
        dataset = DrawingDataset if self.itm_images == "drawn" else MicroBatchDataset
        return dataset(folders, transform, self.builder(), self.seed)

    @property
    def pictures_per_sample(self) -> float:
        """Return one, or one and a half where images are drawn."""
        return 1.5 if self.itm_images == "drawn" else 1.0

    def builder(self) -> PretrainBuilder:
        """Make what turns records into batches."""
        side = self.image_size // self.patch_size
        return PretrainBuilder(
            self.tokenizer,
            self.max_text_length,
            (side, side),
            self.read_classes(),
            self.masking,
            self.codebook,
            self.itm_images != "none",
        )


DataModule = PretrainDataModule
