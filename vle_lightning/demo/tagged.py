"""VCR questions as one types and clicks them: texts with tags such as [0], and boxes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from vle_lightning.demo.limits import Limits
from vle_lightning.errors import UserError

Box = tuple[float, float, float, float]  # xyxy in pixels
TAG = re.compile(r"\[\s*\d+(?:\s*,\s*\d+)*\s*\]")
PARTS = re.compile(rf"{TAG.pattern}|\w+(?:['’-]\w+)*|[^\w\s]")
SMALLEST = 2.0  # pixels of a box's side
CHOICES = 4


@dataclass(frozen=True)
class Objects:
    """The boxes of a picture, and the corner of one that is being drawn."""

    names: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    corner: tuple[float, float] | None = None

    def at(self, x: float, y: float) -> int | None:
        """Return the number of the smallest box around a point; None where there is none."""
        around = [
            ((x1 - x0) * (y1 - y0), number)
            for number, (x0, y0, x1, y1) in enumerate(self.boxes)
            if x0 <= x <= x1 and y0 <= y <= y1
        ]
        return min(around)[1] if around else None

    def with_corner(self, x: float, y: float, name: str, limits: Limits) -> Self:
        """Return the objects after a click that draws: the first one sets a corner, the second one the box.

        Raises:
            UserError: the box is too small, there are enough boxes, or the name is too long.
        """
        if len(name) > limits.name:
            raise UserError(f"The class has {len(name):,} characters; this page takes up to {limits.name}: shorten it.")
        if self.corner is None:
            if len(self.boxes) >= limits.boxes:
                raise UserError(f"There are {len(self.boxes)} boxes, as many as this page takes: remove one.")
            return replace(self, corner=(x, y))
        x0, y0 = self.corner
        box = (min(x0, x), min(y0, y), max(x0, x), max(y0, y))
        if box[2] - box[0] < SMALLEST or box[3] - box[1] < SMALLEST:
            raise UserError("The box has no extent: click its opposite corner.")
        return replace(self, names=(*self.names, name.strip() or "object"), boxes=(*self.boxes, box), corner=None)

    def without_last(self) -> Self:
        """Return the objects without a corner that waits, or without the last box."""
        if self.corner is not None:
            return replace(self, corner=None)
        return replace(self, names=self.names[:-1], boxes=self.boxes[:-1])


def read_tagged(text: str, name: str, objects: int) -> list[str | list[int]]:
    """Read a text with tags as VCR writes it: words, and lists of object numbers.

    Raises:
        UserError: it is empty, or tags an object whose number has no box.
    """
    parts: list[str | list[int]] = []
    for part in PARTS.findall(text):
        tags = [int(number) for number in re.findall(r"\d+", part)] if TAG.fullmatch(part) else None
        if tags and max(tags) >= objects:
            raise UserError(f"The {name} tags object {max(tags)}, but the picture has {objects} boxes, from 0 on.")
        parts.append(part if tags is None else tags)
    if not parts:
        raise UserError(f"The {name} is empty: type one.")
    return parts


def write_tagged(parts: Sequence[str | Sequence[int]]) -> str:
    """Write a text of VCR with its tags in brackets."""
    return " ".join(part if isinstance(part, str) else f"[{', '.join(map(str, part))}]" for part in parts)


def build_annotation(
    objects: Objects,
    question: str,
    answers: Sequence[str],
    rationales: Sequence[str] = (),
    answer: int | None = None,
) -> dict[str, Any]:
    """Build an annotation in VCR's layout, boxes included.

    Args:
        objects: that the texts tag.
        question: a text with tags.
        answers: four.
        rationales: four, where one of them is to be chosen.
        answer: the number of the answer that is taken for right, then.

    Raises:
        UserError: there is no box, or a text is empty or tags what is not there.
    """
    if not objects.boxes:
        raise UserError("There are no boxes: choose a sample, or draw some and tag them in the texts.")
    count = len(objects.boxes)
    annotation: dict[str, Any] = {
        "objects": list(objects.names),
        "boxes": [list(box) for box in objects.boxes],
        "question": read_tagged(question, "question", count),
        "answer_choices": [read_tagged(text, f"answer {place + 1}", count) for place, text in enumerate(answers)],
    }
    if answer is not None:
        choices = [read_tagged(text, f"rationale {place + 1}", count) for place, text in enumerate(rationales)]
        annotation |= {"answer_label": answer, "rationale_choices": choices}
    return annotation
