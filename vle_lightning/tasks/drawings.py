"""Drawings of answers, choices and statements: the sample, where the model looked, prediction beside truth."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from vle_lightning.batch import IGNORED, StatementBatch, VCRBatch, VQABatch
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.tasks.pictures import (
    OTHER,
    RIGHT,
    SHOWN,
    WRONG,
    Bar,
    Names,
    Picture,
    draw_attention,
    draw_bars,
    draw_boxes,
    make_sheet,
    to_picture,
    wrapped,
)

TOP = 5  # answers
CHOICES = 4  # of one decision
BETWEEN = re.compile(r"\s*(?:\[SEP\]|</s>)\s*")  # of BERT, DeBERTa and RoBERTa
SPECIAL = re.compile(r"\[CLS\]|\[PAD\]|<s>|<pad>")


def draw_answers(
    batch: VQABatch,
    probabilities: Tensor,
    heat: Tensor | None,
    labels: Sequence[str] | None = None,
    pixels: PixelFacts = PixelFacts(),  # noqa: B008 (immutable)
) -> Picture:
    """Draw questions: the picture, where the model looked, its best answers and the truth.

    Args:
        batch: B questions; the first few are drawn.
        probabilities: (B, C) of the answers.
        heat: (B, 1, rows, columns) attention; None where the image is masked.
        labels: names of the C answers; their numbers by default.
        pixels: how the batch's pixels are normalised.
    """
    names = labels or [str(number) for number in range(probabilities.shape[1])]
    rows = min(SHOWN, len(batch))
    figure, axes = make_sheet(rows, (2.8, 2.8, 3.2))
    for row in range(rows):
        truth = batch.targets[row]
        best = probabilities[row].topk(min(TOP, len(names)))
        _draw_pictures(axes[row], batch.pixel_values[row, None], pixels, heat, row, batch.texts[row])
        bars = [
            Bar(names[answer], probability, RIGHT if truth[answer] > 0 else WRONG if not place else OTHER)
            for place, (answer, probability) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        ]
        draw_bars(axes[row, -1], bars)
        known = sorted(((float(truth[n]), names[n]) for n in truth.nonzero().flatten().tolist()), reverse=True)
        told = ", ".join(f"{name} ({credit:.1f})" for credit, name in known) or ", ".join(batch.answers[row])
        axes[row, -1].set_title(wrapped(f"truth: {told or 'not known'}", lines=2), fontsize=8)
    return Picture("answers", figure)


def draw_statements(
    batch: StatementBatch,
    probabilities: Tensor,
    heat: Tensor | None,
    labels: Sequence[str],
    facts: PixelFacts = PixelFacts(),  # noqa: B008 (immutable)
) -> Picture:
    """Draw statements: one picture or two, where the model looked in each, the classes' probabilities and the truth.

    Args:
        batch: B statements; the first few are drawn.
        probabilities: (B, C) of the classes.
        heat: (B, K, rows, columns) attention over each of K pictures; None where they are masked.
        labels: names of the C classes.
        facts: how the batch's pixels are normalised.
    """
    pixels = batch.pixel_values if batch.pixel_values.dim() == 5 else batch.pixel_values[:, None]
    rows, images = min(SHOWN, len(batch)), pixels.shape[1]
    figure, axes = make_sheet(rows, (2.8, 2.8) * images + (3.2,))
    for row in range(rows):
        target = int(batch.targets[row])
        _draw_pictures(axes[row], pixels[row], facts, heat, row, batch.texts[row])
        draw_bars(axes[row, -1], _judged(labels, probabilities[row], target))
        told = "not known" if target == IGNORED else labels[target]
        axes[row, -1].set_title(f"truth: {told}", fontsize=8)
    return Picture("statements", figure)


def draw_choices(
    batch: VCRBatch,
    probabilities: Tensor,
    heat: Tensor | None,
    names: Names,
    pixels: PixelFacts = PixelFacts(),  # noqa: B008 (immutable)
) -> Picture:
    """Draw questions with choices: numbered boxes, where the model looked for its choice, all choices, the right one.

    Of rationales given each of four answers (K = 16) those given the right answer are drawn; the first answer's, where
    that is hidden.

    Args:
        batch: B questions with K choices; the first few are drawn.
        probabilities: (B, K), each decision between four sums to one.
        heat: (B, K, rows, columns) attention for each choice; None where the image is masked.
        names: of tokens.
        pixels: how the batch's pixels are normalised.
    """
    rows = min(SHOWN, len(batch))
    figure, axes = make_sheet(rows, (2.9, 2.9, 4.4), 2.8)
    for row in range(rows):
        known = int(batch.targets[row]) != IGNORED
        first = int(batch.targets[row]) // CHOICES * CHOICES if known else 0
        target, shares = int(batch.targets[row]) - first if known else IGNORED, probabilities[row][first:][:CHOICES]
        best = int(shares.argmax())
        objects = find_objects(batch, row)
        shared, choices = read_choices(batch, row, range(first, first + len(shares)), names, objects)
        _draw_pictures(axes[row], batch.pixel_values[row, None], pixels, heat, row, shared, choice=first + best)
        _number_boxes(axes[row, 0], objects, (batch.pixel_values.shape[-2], batch.pixel_values.shape[-1]))
        draw_bars(axes[row, -1], _judged(choices, shares, target), width=58)
        told = f"{chr(65 + target)} is right" if known else "the right one is not known"
        axes[row, -1].set_title(f"chosen: {chr(65 + best)}; {told}", fontsize=8)
    return Picture("choices", figure)


class Objects(NamedTuple):
    """The distinct objects that the choices of one question tag."""

    boxes: list[Tensor]  # (4,) xyxy each, normalised
    numbers: list[dict[int, int]]  # of each choice: token type -> number of the object, from 1


def find_objects(batch: VCRBatch, row: int) -> Objects:
    """Number the objects of a question: choices give one object different token types, but its box stays the same."""
    boxes: dict[tuple[float, ...], Tensor] = {}
    numbers: list[dict[int, int]] = []
    for regions, valid, types in zip(batch.regions[row], batch.region_valid[row], batch.region_types[row], strict=True):
        numbers.append({})
        for box, kind in zip(regions[valid], types[valid].tolist(), strict=True):
            boxes.setdefault(tuple(box.tolist()), box)
            numbers[-1][kind] = list(boxes).index(tuple(box.tolist())) + 1
    return Objects(list(boxes.values()), numbers)


def read_choices(
    batch: VCRBatch, row: int, numbers: Sequence[int], names: Names, objects: Objects
) -> tuple[str, list[str]]:
    """Write choices as the model reads them, with the number of its object behind each mention.

    Args:
        batch: B questions with K choices.
        row: the question.
        numbers: of the choices.
        names: of tokens.
        objects: of the question.

    Returns:
        What is given with all of these choices alike, and each choice, after its letter.
    """
    parts = []
    for number in numbers:
        mask = batch.attention_mask[row, number]
        ids, types = (tensor[row, number][mask].tolist() for tensor in (batch.input_ids, batch.token_types))
        text = " ".join(_mentions(ids, types, objects.numbers[number], names))
        parts.append([part for part in BETWEEN.split(SPECIAL.sub("", text).strip()) if part] or [""])
    alike = 0
    while all(len(part) > alike + 1 and part[alike] == parts[0][alike] for part in parts):
        alike += 1
    choices = [f"{chr(65 + place)}: {' / '.join(part[alike:])}" for place, part in enumerate(parts)]
    return " / ".join(parts[0][:alike]), choices


def _mentions(ids: list[int], types: list[int], numbers: dict[int, int], names: Names) -> Iterator[str]:
    """Decode runs of tokens of one type; those that mention an object get its number."""
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or types[end] != types[start]:
            words = names.decode(ids[start:end]).strip()
            yield f"{words}[{numbers[types[start]]}]" if types[start] in numbers else words
            start = end


def _judged(texts: Sequence[str], shares: Tensor, target: int) -> list[Bar]:
    best = int(shares.argmax())
    colours = [RIGHT if n == target else WRONG if n == best and target != IGNORED else OTHER for n in range(len(texts))]
    marked = [f"{text} (chosen)" if n == best else text for n, text in enumerate(texts)]
    return [Bar(*bar) for bar in zip(marked, shares.tolist(), colours, strict=True)]


def _draw_pictures(
    axes: np.ndarray,
    pixels: Tensor,
    facts: PixelFacts,
    heat: Tensor | None,
    row: int,
    text: str,
    choice: int | None = None,
) -> None:
    """Draw the pictures (K, 3, H, W) of a sample and the attention on each, two axes a picture."""
    for number, values in enumerate(pixels):
        picture = to_picture(values, facts)
        plain, seen = axes[2 * number], axes[2 * number + 1]
        plain.imshow(picture)
        plain.set_title(f"picture {number + 1}", fontsize=8)
        draw_attention(seen, picture, None if heat is None else heat[row, number if choice is None else choice])
    axes[0].set_title(wrapped(text), fontsize=8)


def _number_boxes(axes: Axes, objects: Objects, size: tuple[int, int]) -> None:
    draw_boxes(axes, objects.boxes, size, "white")
    for number, box in enumerate(objects.boxes, start=1):
        corner = (float(box[0]) * size[1] - 0.5, float(box[1]) * size[0] - 0.5)
        axes.annotate(
            str(number), corner, fontsize=7, color="white", va="top", bbox={"facecolor": "black", "pad": 0.8, "lw": 0}
        )
