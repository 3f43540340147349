"""VCR's official layout: an annotation and its metadata, checked field by field before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from datamodules.records import TaggedText
from vle_lightning.errors import UserError
from vle_lightning.hub.checks import fits, short

Mode = Literal["q2a", "qa2r"]

CHOICES = 4
Choices = tuple[TaggedText, ...]  # four


class Annotation(NamedTuple):
    """One question about tagged objects, as far as a mode asks for it."""

    objects: tuple[str, ...]  # class of each
    question: TaggedText
    answer_choices: Choices
    answer_label: int | None  # None where hidden
    rationale_choices: Choices = ()  # read for qa2r only
    rationale_label: int | None = None


def read_annotation(source: Mapping[str, Any], mode: Mode) -> Annotation:
    """Read an annotation.

    Args:
        source: ``objects``, ``question``, ``answer_choices``, ``answer_label``; for qa2r, those of rationales.
        mode: q2a has no use for rationales, and looks at none.

    Raises:
        UserError: a field is missing, of another form, or out of range; names it.
    """
    objects = look_up(source, "objects")
    if not fits(objects, list[str]):
        raise UserError(f"objects is {short(objects)}; give a list with the class of each object, such as 'person'")
    question = _tagged(look_up(source, "question"), "question", len(objects))
    answers, label = _choices(source, "answer", len(objects))
    if mode == "q2a":
        return Annotation(tuple(objects), question, answers, label)
    if label is None:
        raise UserError("'answer_label' is missing or null (a hidden answer?); qa2r needs the right answer")
    return Annotation(tuple(objects), question, answers, label, *_choices(source, "rationale", len(objects)))


def read_boxes(metadata: Mapping[str, Any]) -> tuple[tuple[float, float, float, float], ...]:
    """Read the boxes: xyxy in pixels; anything behind these four, such as a score, is left out.

    Raises:
        UserError: there are none, or one is of another form; names it.
    """
    boxes = look_up(metadata, "boxes")
    boxes = boxes.tolist() if isinstance(boxes, np.ndarray) else boxes
    if not isinstance(boxes, list | tuple):
        raise UserError(f"boxes is {short(boxes)}; give a list with one box per object: x0, y0, x1, y1 in pixels")
    for number, box in enumerate(boxes):
        if not (isinstance(box, list | tuple) and len(box) >= 4 and fits(box[:4], list[float])):
            raise UserError(f"boxes[{number}] is {short(box)}; give four numbers: x0, y0, x1, y1 in pixels")
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1, *_ in boxes)


def read_extent(metadata: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    """Return width and height that the boxes refer to; those of the picture, ``size``, where nothing is said.

    Raises:
        UserError: one is not a number above 0.
    """
    width, height = (metadata.get(name, pixels) for name, pixels in zip(("width", "height"), size, strict=True))
    for name, value in (("width", width), ("height", height)):
        if not (fits(value, float) and value > 0):
            raise UserError(f"{name} is {short(value)}; give the picture's {name} in pixels, or leave it out")
    return width, height


def look_up(source: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 (parsed JSON)
    """Return a value of VCR's official layout.

    Raises:
        UserError: the key is missing.
    """
    if key not in source:
        raise UserError(f"{key!r} is missing; VCR's official layout has it, here are {sorted(map(str, source))}")
    return source[key]


def _choices(source: Mapping[str, Any], kind: str, objects: int) -> tuple[Choices, int | None]:
    field = f"{kind}_choices"
    choices, label = look_up(source, field), source.get(f"{kind}_label")
    if not isinstance(choices, list | tuple):
        raise UserError(f"{field} is {short(choices)}; give a list of four tagged texts")
    if len(choices) != CHOICES:
        raise UserError(f"{field} has {len(choices)} entries; give four")
    if not fits(label, int | None) or label not in (None, *range(CHOICES)):
        raise UserError(f"{kind}_label is {short(label)}; give 0 to 3, or null where it is hidden")
    return tuple(_tagged(text, f"{field}[{number}]", objects) for number, text in enumerate(choices)), label


def _tagged(text: object, field: str, objects: int) -> TaggedText:
    if not isinstance(text, list | tuple):
        raise UserError(
            f"{field}: {short(text)} is not a tagged text; give a list of words and lists of object numbers"
        )
    for part in text:
        if not (isinstance(part, str) or fits(part, list[int])):
            raise UserError(f"{field}: {short(part)} is neither a word nor a list of object numbers")
        if wrong := [tag for tag in part if not isinstance(part, str) and not 0 <= tag < objects]:
            raise UserError(f"{field} tags object {wrong[0]} of {objects}; the first one has number 0")
    return tuple(part if isinstance(part, str) else tuple(part) for part in text)
