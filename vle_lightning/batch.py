"""Batches: what the datamodules hand to the tasks.

Every batch is one micro-batch, the unit of order and randomness: number ``number`` of optimiser step ``step``.
Dimensions: B samples, T tokens, R boxes (padded), H hidden boxes (padded), C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -100  # the target that cross entropy leaves out
FEW = 8  # the number of places is rounded up to a multiple of this, so that few shapes occur
NOWHERE = torch.zeros(0, dtype=torch.int64)


Colours = tuple[float, float, float]  # of red, green and blue; a pixel's are in [0, 1]


class Skip(NamedTuple):
    """What could not be used, a sample or a part of one: counted and reported, never replaced by another."""

    kind: str  # a short fixed phrase, such as "unreadable image"
    where: str  # shard, key and what was wrong
    lost: bool = True  # the whole sample; False: only the part that ``kind`` names


class DataFacts(NamedTuple):
    """What a data module and its task have to agree about; None where a kind of data has no such thing."""

    vocabulary: int | None = None  # token ids
    image_size: int | None = None  # pixels
    patch_size: int | None = None  # pixels
    classes: int | None = None
    answers: int | None = None
    mode: str | None = None
    token_types: int | None = None  # rows of the table that are used
    labels: tuple[str, ...] | None = None  # names of the classes that statements have
    patch_share: float | None = None  # of the patches that are hidden one by one
    codes: int | None = None  # of the codebook; None without one
    pixels: tuple[Colours, Colours] | None = None  # mean and standard deviation that pixels are normalised by
    padding: int | None = None  # the token id of padding
    text_length: int | None = None  # tokens of the longest text
    mismatches: bool | None = None  # of texts and images, which ITM tells from matches


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What every micro-batch carries; tensors move together, host-only fields stay plain Python."""

    sample_ids: tuple[str, ...]  # one a row, unique in its split
    valid: Tensor  # (B,) bool; False marks filler rows, which reach no loss, metric or prediction
    step: int  # the optimiser step, counted from 0 over the whole run
    number: int  # the micro-batch's number within its step: rank + i * world size
    skipped: tuple[Skip, ...] = ()
    planned: int = 0  # rows that it has if all of its samples can be used; 0: as many as it has
    ahead: tuple[Self, ...] = ()  # in a rank's first micro-batch of a step: its others, for tasks that look ahead

    def __len__(self) -> int:
        """Return the number of rows, fillers included."""
        return len(self.sample_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the batch with its tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory; torch's DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changes: dict[str, Any] = {
            field.name: function(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        changes["ahead"] = tuple(batch._map(function) for batch in self.ahead)
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ImageTextBatch(Batch):
    """B images with a text (or several) each."""

    pixel_values: Tensor  # (B, 3, H, W) float, normalised as the data module says, by default as CLIP's
    input_ids: Tensor  # (B, T) int64, or (B, 4, T) for four choices
    attention_mask: Tensor  # like input_ids, bool; False on padding
    texts: tuple[str, ...]  # for pictures and reports


@dataclass(frozen=True, kw_only=True)
class PretrainBatch(ImageTextBatch):
    """B image-text pairs with everything that the objectives draw at random, drawn already.

    Boxes are xyxy, normalised to [0, 1] of the picture as cropped; rows of padding have ``box_valid`` False. A hidden
    box covers at least one patch.
    """

    keys: Tensor  # (B, 3) int64: what stands for the sample, its image and its text, equal where these are
    masked_input_ids: Tensor  # (B, T) int64: the text view with masked tokens
    mlm_targets: Tensor  # (B, T) int64: the token to restore, IGNORED elsewhere
    mlm_content: Tensor  # (B, T) bool: the target is a word of the content list
    partner: Tensor  # (B,) int64: the row whose text ITM lays beside image i, i itself for a match; -1: see drawn_rows
    drawn_rows: Tensor  # (D,) int64: rows whose text ITM lays beside an image drawn from the whole data; D is often 0
    drawn_pixel_values: Tensor  # (D, 3, H, W) float: these images; partner is i for a match by chance, else -1
    boxes: Tensor  # (B, R, 4) float
    box_valid: Tensor  # (B, R) bool
    box_mentioned: Tensor  # (B, R) bool: the text mentions the box
    hidden_boxes: Tensor  # (B, H, 4) float: drawn for MPC, their patches are hidden in the masked image view
    hidden_classes: Tensor  # (B, H) int64; -1 on padding
    hidden_patches: Tensor  # (B, P) bool: drawn for masked image modelling, hidden in the image view of patches
    patch_codes: Tensor  # (B, P) int64: the discrete code of each patch of the whole image; IGNORED without a codebook
    masked_places: Tensor = NOWHERE  # (M,) int64: where mlm_targets are, see `places_of`; made where it is not given
    hidden_places: Tensor = NOWHERE  # (K,) int64: likewise of hidden_patches

    def __post_init__(self) -> None:
        """Note the places while the host knows, without waiting for a device, how many there are."""
        _note(self, "masked_places", self.mlm_targets != IGNORED)
        _note(self, "hidden_places", self.hidden_patches)


@dataclass(frozen=True, kw_only=True)
class ImageBatch(Batch):
    """B images alone, some of whose patches are to be hidden; P patches each, row by row."""

    pixel_values: Tensor  # (B, 3, H, W) float, normalised as the data module says
    hidden_patches: Tensor  # (B, P) bool: drawn for masked image modelling
    patch_codes: Tensor  # (B, P) int64: the discrete code of each patch of the whole image
    object_patches: Tensor  # (B, P) bool: the patch touches an object; False where the objects are not known
    hidden_places: Tensor = NOWHERE  # (K,) int64: where hidden_patches are, see `places_of`; made where not given

    def __post_init__(self) -> None:
        """Note the places while the host knows how many there are."""
        _note(self, "hidden_places", self.hidden_patches)


@dataclass(frozen=True, kw_only=True)
class TextBatch(Batch):
    """B texts alone, some of whose tokens are masked."""

    masked_input_ids: Tensor  # (B, T) int64
    input_ids: Tensor  # (B, T) int64
    attention_mask: Tensor  # (B, T) bool; False on padding
    mlm_targets: Tensor  # (B, T) int64: the token to restore, IGNORED elsewhere
    mlm_content: Tensor  # (B, T) bool: the target is a word of the content list
    texts: tuple[str, ...]  # for pictures and reports
    masked_places: Tensor = NOWHERE  # (M,) int64: where mlm_targets are, see `places_of`; made where not given

    def __post_init__(self) -> None:
        """Note the places while the host knows how many there are."""
        _note(self, "masked_places", self.mlm_targets != IGNORED)


@dataclass(frozen=True, kw_only=True)
class VQABatch(ImageTextBatch):
    """B questions on B images, with the soft answer scores of VQAv2."""

    targets: Tensor  # (B, C) float in [0, 1]: min(1, 0.3 * annotators who gave answer c); 1 for an only one's
    question_ids: tuple[str, ...]  # of the annotations; sample_ids name the image, too
    answers: tuple[tuple[str, ...], ...]  # what the annotators said, ten in VQAv2; none where it is hidden
    answer_types: tuple[str, ...]  # "yes/no", "number", "other"; "" where not known
    question_types: tuple[str, ...]  # such as "what color is the"; "" where not known


@dataclass(frozen=True, kw_only=True)
class VCRBatch(ImageTextBatch):
    """B questions with K choices each; R is the largest number of objects that one choice tags.

    K is 4, or 16 where rationales are judged given each of the four answers (a choice is answer * 4 + rationale).
    """

    token_types: Tensor  # (B, K, T) int64: 0, or the type of the object that the token mentions
    regions: Tensor  # (B, K, R, 4) float: boxes of the tagged objects
    region_valid: Tensor  # (B, K, R) bool
    region_types: Tensor  # (B, K, R) int64: the token type that ties the region to its mentions
    targets: Tensor  # (B,) int64: the right choice; IGNORED where it is not known
    families: tuple[str, ...]  # the kind of each question
    question_ids: tuple[str, ...]  # VCR's annot_id


@dataclass(frozen=True, kw_only=True)
class StatementBatch(ImageTextBatch):
    """B statements about an image each, or about two (NLVR2): pixel_values is (B, 2, 3, H, W) then, left and right."""

    targets: Tensor  # (B,) int64: the class; IGNORED where it is hidden
    statement_ids: tuple[str, ...]  # of the annotations; sample_ids name the image, too
    groups: tuple[str, ...]  # statements of one group are one sentence on several images; "" where there are none


@dataclass(frozen=True, kw_only=True)
class LabelBatch(Batch):
    """B images, each of one class."""

    pixel_values: Tensor  # (B, 3, H, W) float, normalised as the data module says
    targets: Tensor  # (B,) int64: the class; IGNORED where it is hidden


@dataclass(frozen=True, kw_only=True)
class MaskBatch(Batch):
    """B images, each pixel of one class or of none."""

    pixel_values: Tensor  # (B, 3, H, W) float, normalised as the data module says
    targets: Tensor  # (B, H, W) int64: the class of each pixel; IGNORED where it has none
    own_targets: tuple[NDArray[np.uint8], ...] = ()  # where scored: (h, w) at the picture's size, class + 1, 0 for none


@dataclass(frozen=True, kw_only=True)
class RetrievalBatch(Batch):
    """B images and the T texts that describe them: one text an image in training, all of them in evaluation."""

    pixel_values: Tensor  # (B, 3, H, W) float, CLIP-normalised
    input_ids: Tensor  # (T, L) int64
    attention_mask: Tensor  # (T, L) bool; False on padding
    keys: Tensor  # (B, 3) int64: what stands for the sample, its image and its first text, equal where these are
    owners: Tensor  # (T,) int64: the row of the image that each text describes
    image_ids: tuple[str, ...]  # of the B images: two rows may show one image
    text_ids: tuple[str, ...]  # of the T texts
    texts: tuple[str, ...]  # for pictures and reports
    shifts: Tensor  # (N,) int64 in [1, B): image i is compared with the texts i + shift, modulo B; empty in evaluation


def places_of(chosen: Tensor) -> Tensor:
    """Return where the chosen are.

    Args:
        chosen: (B, N) bool, on the host: how many there are decides the shape.

    Returns:
        (K,) int64, rising numbers row * N + column of the chosen, and behind them some of others: K is rounded up to a
        multiple of eight, as far as there are so many.
    """
    count = min(-(-int(chosen.sum()) // FEW) * FEW, chosen.numel())
    return chosen.flatten().to(torch.uint8).argsort(descending=True, stable=True)[:count]


def _note(batch: Batch, name: str, chosen: Tensor) -> None:
    """Set the places of a batch, unless they are those of ``chosen``, or on a device where they were brought."""
    given = getattr(batch, name)
    if given is NOWHERE or (chosen.device.type == "cpu" and not _are_of(given, chosen)):
        object.__setattr__(batch, name, places_of(chosen))


def _are_of(places: Tensor, chosen: Tensor) -> bool:
    inside = not len(places) or int(places.max()) < chosen.numel()
    return inside and bool(chosen.flatten()[places].sum() == chosen.sum())
