"""The VCR conversion of the published VLE pipelines (iflytek/VLE), defects included.

For numbers equal to theirs only: the corrected conversion is `datamodules.vcr`, and docs/vcr_processing.md lists what
differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from vle_lightning.errors import UserError
from vle_lightning.inference.vcr_layout import CHOICES, Mode, read_annotation, read_boxes
from vle_lightning.inference.vcr_texts import MAX_LENGTH, UNTAGGED, Words, build_texts, retokenise
from vle_lightning.models.backbone import IMAGE_TYPE, TEXT_TYPE
from vle_lightning.tasks.vcr import Regions, VCRTask

FIRST_OBJECT_TYPE = IMAGE_TYPE + 1
PERSON = "person"
# R2C's list of gender-neutral names (arXiv 1811.10830), in its order
NAMES = (
    *("Casey", "Riley", "Jessie", "Jackie", "Avery", "Jaime", "Peyton", "Kerry"),
    *("Jody", "Kendall", "Payton", "Skyler", "Frankie", "Pat", "Quinn"),
)


class PersonNames:
    """Which name the next person gets; one object lives as long as a pipeline, so names depend on earlier calls."""

    def __init__(self, position: int = 0) -> None:
        self.position = position

    def call(self, objects: Sequence[str]) -> list[str]:
        """Return the noun of each object: persons take the next names, others are called by their class."""
        return [self._next() if name == PERSON else name for name in objects]

    def _next(self) -> str:
        name = NAMES[self.position]
        self.position = (self.position + 1) % len(NAMES)
        return name


class PatchBox(NamedTuple):
    """A box grown to whole patches of the whole picture."""

    box: tuple[float, float, float, float]  # xyxy in pixels
    patches: list[int]  # row by row, without CLS; empty for a box beyond the edge


class VCRInputs(NamedTuple):
    """One question as the published pipelines hand it to the model, T = MAX_LENGTH."""

    input_ids: Tensor  # (4, T) int64
    attention_mask: Tensor  # (4, T) bool
    token_type_ids: Tensor  # (4, T) int64, all 0
    text_types: tuple[list[int], ...]  # per choice; of `texts`, so longer or shorter than the ids where these differ
    region_types: tuple[list[int], ...]  # per choice, one number per object
    patch_ids: tuple[list[list[int]], ...]  # per choice, the patches of each object
    label: int | None  # of the right choice; None where it is not known
    texts: tuple[Words, ...]  # per choice, after truncation
    text_ids: tuple[list[int], ...]  # ids of the texts' tokens, before they are tokenised again
    patch_boxes: tuple[PatchBox, ...]  # of all objects


def convert(
    annotation: Mapping[str, Any],
    metadata: Mapping[str, Any],
    image_size: tuple[int, int],
    task: Mode,
    tokenizer: PreTrainedTokenizerBase,
    *,
    grid: tuple[int, int],
    names: PersonNames,
) -> VCRInputs:
    """Convert an annotation in VCR's official layout.

    Args:
        annotation: ``objects``, ``question``, ``answer_choices``, ``answer_label``; for qa2r, those of rationales.
        metadata: ``boxes`` in pixels, xyxy and anything behind.
        image_size: width and height of the picture in pixels.
        task: q2a chooses the answer, qa2r the rationale of the right answer.
        tokenizer: of the checkpoint.
        grid: height and width in patches of the image that the model sees.
        names: moves on by one for each person.

    Raises:
        UserError: a field of annotation or metadata is missing, of another form or out of range; names it.
    """
    question, boxes = read_annotation(annotation, task), read_boxes(metadata)
    texts = build_texts(question, task, tokenizer, names.call(question.objects))
    tags = [list({tag for tag in text.tags if tag != UNTAGGED}) for text in texts]  # in a set's order, as published
    if wrong := sorted({tag for found in tags for tag in found if tag >= len(boxes)}):
        raise UserError(f"objects {wrong} are tagged, but the metadata have {len(boxes)} boxes; give one per object")
    patch_boxes = tuple(patch_box(box, image_size, grid) for box in boxes)
    text_ids = tuple(tokenizer.convert_tokens_to_ids(text.tokens) for text in texts)
    input_ids, attention_mask = _padded([retokenise(ids, tokenizer) for ids in text_ids], tokenizer.pad_token_id)
    return VCRInputs(
        input_ids=input_ids,
        attention_mask=attention_mask,
        token_type_ids=torch.zeros_like(input_ids),
        text_types=tuple(_text_types(text, found) for text, found in zip(texts, tags, strict=True)),
        region_types=tuple(list(range(FIRST_OBJECT_TYPE, FIRST_OBJECT_TYPE + len(found))) for found in tags),
        patch_ids=tuple([patch_boxes[tag].patches for tag in found] for found in tags),
        label=question.answer_label if task == "q2a" else question.rationale_label,
        texts=texts,
        text_ids=text_ids,
        patch_boxes=patch_boxes,
    )


def _padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Lay ids out as (4, MAX_LENGTH) int64, with the mask, bool of the same shape."""
    input_ids = torch.full((CHOICES, MAX_LENGTH), filler)
    for choice, row in enumerate(rows):
        input_ids[choice, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return input_ids, torch.arange(MAX_LENGTH) < lengths[:, None]


def patch_box(box: Sequence[float], image_size: tuple[int, int], grid: tuple[int, int]) -> PatchBox:
    """Grow a box to whole patches; a far edge on a border takes the patch behind it as well, as published.

    Args:
        box: xyxy in pixels.
        image_size: width and height in pixels.
        grid: height and width in patches, laid over the whole picture whatever the model sees of it.
    """
    steps = image_size[0] / grid[1], image_size[1] / grid[0]
    first = [max(int(box[axis] // steps[axis]), 0) for axis in (0, 1)]
    last = [min(int(box[axis + 2] // steps[axis]) + 1, grid[1 - axis]) for axis in (0, 1)]
    patches = [row * grid[1] + column for row in range(first[1], last[1]) for column in range(first[0], last[0])]
    return PatchBox((first[0] * steps[0], first[1] * steps[1], last[0] * steps[0], last[1] * steps[1]), patches)


def score(task: VCRTask, inputs: Sequence[VCRInputs], pixel_values: Tensor) -> Tensor:
    """Score B questions on B images (B, 3, H, W): logits (B, 4), NaN for a choice that tags an object without patches.

    Each image is encoded once. The softmax and the loss of a question with such a choice are NaN, as published.

    Raises:
        UserError: more objects are tagged than the model has token types.
    """
    device, rows = pixel_values.device, task.model.token_types.num_embeddings
    if (most := max(max(types, default=0) for one in inputs for types in one.region_types)) >= rows:
        raise UserError(f"a choice tags {most - IMAGE_TYPE} objects, the model has token types for {rows - 2}")
    input_ids = torch.cat([one.input_ids for one in inputs]).to(device)
    attention_mask = torch.cat([one.attention_mask for one in inputs]).to(device)
    text_types = torch.full_like(input_ids, TEXT_TYPE)
    for row, types in enumerate(types for one in inputs for types in one.text_types):
        text_types[row, : len(types)] = torch.tensor(types)
    image = task.model.encode_image(pixel_values)
    regions = tagged_regions(inputs, image.states.shape[1] - 1)
    regions = Regions(*(part.to(device) for part in regions))
    return task.score_choices(
        task.model.encode_text(input_ids, attention_mask), image, regions, text_types.unflatten(0, (-1, CHOICES))
    )


def tagged_regions(inputs: Sequence[VCRInputs], patches: int) -> Regions:
    """Lay out the objects that the choices of B questions tag, of images of that many patches."""
    choices = [choice for one in inputs for choice in one.patch_ids]
    member = [torch.zeros(len(choice), patches, dtype=torch.bool) for choice in choices]
    for rows, choice in zip(member, choices, strict=True):
        for row, found in enumerate(choice):
            rows[row, found] = True
    valid = [torch.ones(len(choice), dtype=torch.bool) for choice in choices]
    types = [torch.tensor(found, dtype=torch.long) for one in inputs for found in one.region_types]
    return Regions(
        *(pad_sequence(part, batch_first=True).unflatten(0, (-1, CHOICES)) for part in (member, valid, types))
    )


def _text_types(text: Words, tags: Sequence[int]) -> list[int]:
    types = [TEXT_TYPE if tag == UNTAGGED else FIRST_OBJECT_TYPE + tags.index(tag) for tag in text.tags]
    return [TEXT_TYPE, *types, TEXT_TYPE]
