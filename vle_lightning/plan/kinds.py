"""What is planned of each task: what of its options costs something, and plain samples and batches of its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vle_lightning.batch import IGNORED, Batch, ImageBatch, LabelBatch, MaskBatch, PretrainBatch, TextBatch
from vle_lightning.errors import UserError
from vle_lightning.streams import ImageLayout
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.classification import ClassificationTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.pretrain_images import PretrainImagesTask
from vle_lightning.tasks.pretrain_texts import PretrainTextsTask
from vle_lightning.tasks.segmentation import SegmentationTask

BOXES = 10  # of an image, where nobody says otherwise; only MPC's head sees them
MASKED = 0.15  # of the tokens: the data module's default
PHOTO = 52_000  # bytes, assumed: a JPEG of 500 x 375 pixels (docs/data_speed.md)
PASSAGE = 2_048  # bytes, assumed: a record of about 1,000 letters in its tar, with headers (docs/data.md)
Settings = Mapping[str, Any]


class Sample(NamedTuple):
    """One sample, as it is on average: an image-text pair, or a text or an image alone."""

    tokens: int  # of the text as padded; 0: an image alone
    image_size: int  # pixels; 0: a text alone
    masked: float = MASKED  # share of the tokens that MLM restores
    boxes: int = BOXES  # slots of the image's boxes, as padded
    patches: float = 0.0  # share of the patches that masked image modelling hides
    drawn: float = 0.0  # images beside its own that are drawn for ITM

    @property
    def assumed_bytes(self) -> int:
        """Bytes on the disk where nobody has measured them."""
        return PHOTO if self.image_size else PASSAGE

    def __str__(self) -> str:
        """Say what it holds."""
        told = []
        if self.tokens:
            told.append(f"{self.tokens} tokens")
        if self.image_size:
            told.append(f"{self.image_size} px")
        if self.masked:
            told.append(f"{self.masked:.0%} of the tokens masked")
        if self.patches:
            told.append(f"{self.patches:.0%} of the patches hidden")
        if self.boxes:
            told.append(f"{self.boxes} boxes")
        return ", ".join(told)


class Kind(NamedTuple):
    """How a task is planned."""

    task: Callable[..., VisionLanguageTask]
    shaping: tuple[str, ...]  # options of the task that its cost depends on
    twin: Mapping[str, object]  # of these, what a twin over an outline has instead: which calls there are stays
    sample: Callable[[Settings, int, int], Sample]  # from the data's options, tokens of a text and boxes of an image
    batch: Callable[[int, Sample, ImageLayout], Batch]  # of so many equal samples
    maps: Callable[[VisionLanguageTask], int] = lambda task: 0  # numbers of a pixel that its loss holds at once


def plain_pairs(rows: int, sample: Sample, layout: ImageLayout | None = None) -> PretrainBatch:
    """Make B equal pairs: grey pictures, texts of one word, all matching, the first tokens masked.

    The first patches are hidden where ``layout`` says which patches there are.
    """
    boxes = torch.tensor([0.0, 0.0, 0.5, 0.5]).expand(rows, sample.boxes, 4)
    known = torch.ones(rows, sample.boxes, dtype=torch.bool)
    hidden = max(1, sample.boxes // 3)  # as MPC draws them
    pixels = _pixels(rows, sample)["pixel_values"]
    drawn = int(sample.drawn * rows)
    return PretrainBatch(
        **_head(rows),
        **_texts(rows, sample),
        **_patches(rows, sample, pixels, layout),
        pixel_values=pixels,
        keys=torch.arange(rows)[:, None].expand(-1, 3),
        partner=torch.arange(rows),
        drawn_rows=torch.arange(drawn),
        drawn_pixel_values=pixels[:drawn],
        boxes=boxes,
        box_valid=known,
        box_mentioned=known,
        hidden_boxes=boxes[:, :hidden],
        hidden_classes=torch.zeros(rows, hidden, dtype=torch.long),
    )


def plain_texts(rows: int, sample: Sample, layout: ImageLayout) -> TextBatch:
    """Make B equal texts, the first tokens masked."""
    del layout
    return TextBatch(**_head(rows), **_texts(rows, sample))


def plain_images(rows: int, sample: Sample, layout: ImageLayout) -> ImageBatch:
    """Make B grey pictures, the first patches hidden."""
    pixels = _pixels(rows, sample)
    patches = _patches(rows, sample, pixels["pixel_values"], layout)
    return ImageBatch(**_head(rows), **pixels, **patches, object_patches=torch.zeros_like(patches["hidden_patches"]))


def plain_labels(rows: int, sample: Sample, layout: ImageLayout) -> LabelBatch:
    """Make B grey pictures of the first class."""
    del layout
    return LabelBatch(**_head(rows), **_pixels(rows, sample), targets=torch.zeros(rows, dtype=torch.long))


def plain_masks(rows: int, sample: Sample, layout: ImageLayout) -> MaskBatch:
    """Make B grey pictures all of whose pixels are of the first class."""
    del layout
    side = sample.image_size
    return MaskBatch(**_head(rows), **_pixels(rows, sample), targets=torch.zeros(rows, side, side, dtype=torch.long))


def _head(rows: int) -> dict[str, Any]:
    valid = torch.ones(rows, dtype=torch.bool)
    return {"sample_ids": tuple(map(str, range(rows))), "valid": valid, "step": 0, "number": 0}


def _pixels(rows: int, sample: Sample) -> dict[str, Any]:
    return {"pixel_values": torch.zeros(rows, 3, sample.image_size, sample.image_size)}


def _texts(rows: int, sample: Sample) -> dict[str, Any]:
    shape = (rows, sample.tokens)
    ids = torch.full(shape, 1)
    chosen = torch.arange(ids.numel()).view(shape) < round(sample.masked * ids.numel())
    return {
        "input_ids": ids,
        "attention_mask": torch.ones(shape, dtype=torch.bool),
        "texts": ("",) * rows,
        "masked_input_ids": ids,
        "mlm_targets": ids.masked_fill(~chosen, IGNORED),
        "mlm_content": chosen,
    }


def _patches(rows: int, sample: Sample, pixels: Tensor, layout: ImageLayout | None) -> dict[str, Any]:
    height, width = layout.grid(pixels) if layout else (0, 0)
    hidden = torch.arange(height * width) < round(sample.patches * height * width)
    codes = torch.zeros(rows, height * width, dtype=torch.long)
    return {"hidden_patches": hidden.expand(rows, -1), "patch_codes": codes}


def _pair(data: Settings, tokens: int, boxes: int) -> Sample:
    drawn = 0.5 if data["itm_images"] == "drawn" else 0.0
    return Sample(tokens, data["image_size"], data["mask_share"], boxes, data["patch_share"], drawn)


def _image(data: Settings, tokens: int, boxes: int) -> Sample:
    del tokens, boxes
    return Sample(0, data["image_size"], 0.0, 0, data.get("patch_share", 0.0))


def _text(data: Settings, tokens: int, boxes: int) -> Sample:
    del boxes
    return Sample(tokens, 0, data["mask_share"], 0)


def _maps(task: VisionLanguageTask) -> int:
    """Count the scores of the classes at full size: what the loss of each head keeps, and two gradients on the way."""
    assert isinstance(task, SegmentationTask)
    return task.classes * ((2 if task.auxiliary_weight else 1) + 2)


KINDS = {
    "pretrain": Kind(
        PretrainTask,
        ("objectives", "classes", "codes", "blind", "passes", "tied"),
        {"classes": 1, "codes": 1},
        _pair,
        plain_pairs,
    ),
    "pretrain_images": Kind(
        PretrainImagesTask, ("codes", "freeze"), {"codes": 1, "freeze": None}, _image, plain_images
    ),
    "pretrain_texts": Kind(PretrainTextsTask, ("tied", "freeze"), {"freeze": None}, _text, plain_texts),
    "classification": Kind(ClassificationTask, ("classes", "blind"), {"classes": 2}, _image, plain_labels),
    "segmentation": Kind(
        SegmentationTask,
        ("classes", "channels", "depths", "auxiliary_weight", "blind"),
        {"classes": 2, "channels": 1},
        _image,
        plain_masks,
        _maps,
    ),
}


def find_kind(task: str) -> Kind:
    """Return how a task is planned.

    Raises:
        UserError: it cannot be.
    """
    if task not in KINDS:
        raise UserError(f"plan: the task is {task}; what can be planned are {', '.join(KINDS)}")
    return KINDS[task]
