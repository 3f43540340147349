"""Draws boxes with their names over a picture, and text in lines of limited width."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from datamodules.records import Box

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom: pixels, all of them inside

MENTIONED, OTHER, OUTLINE = (225, 0, 150), (0, 190, 235), (0, 0, 0)
NAME_COLOURS: dict[Colour, Colour] = {MENTIONED: (255, 255, 255), OTHER: (0, 0, 0)}
WIDTHS: dict[Colour, int] = {MENTIONED: 3, OTHER: 2}  # of a box's line in pixels
LABEL_SIZE = 11
MAX_LINES = 12  # of one paragraph


class Label(NamedTuple):
    """A name that belongs to a box."""

    text: str
    colour: Colour
    box: Rectangle


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which knows most alphabets but no Chinese, Japanese or Korean."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(fonts / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def pixel_box(box: Box, width: int, height: int) -> Rectangle:
    """Return the pixels that a box (xyxy in [0, 1]) covers of a picture; at least one each way."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return left, top, max(round(box[2] * width) - 1, left), max(round(box[3] * height) - 1, top)


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Box], names: Sequence[str], mentioned: Collection[int]
) -> list[str]:
    """Draw boxes within their pixels, those that the text mentions thicker, in another colour and on top.

    Args:
        picture: RGB, as it is shown; drawn on.
        boxes: xyxy in [0, 1].
        names: What stands at each box; nothing where it is "".
        mentioned: Numbers of the boxes that the text mentions.

    Returns:
        The names for which no place was free, in the order of the boxes.
    """
    draw = ImageDraw.Draw(picture)
    labels = {}
    for number in sorted(range(len(boxes)), key=lambda number: number in mentioned):
        colour = MENTIONED if number in mentioned else OTHER
        left, top, right, bottom = shape = pixel_box(boxes[number], *picture.size)
        line = WIDTHS[colour]
        draw.rectangle(shape, outline=colour, width=line)
        if min(right - left, bottom - top) > 2 * (line + 1):  # a dark line inside: bright pictures have such colours
            draw.rectangle((left + line, top + line, right - line, bottom - line), outline=OUTLINE)
        if names[number]:
            labels[number] = Label(names[number], colour, shape)
    unplaced = place_labels(draw, labels, picture.size)
    return [names[number] for number in sorted(unplaced)]


def place_labels(draw: ImageDraw.ImageDraw, labels: dict[int, Label], size: tuple[int, int]) -> list[int]:
    """Write each label at a free place beside its box, and return the numbers of those that have none.

    Boxes that the text mentions choose first, then small ones, which have fewer places.
    """
    taken: list[Rectangle] = []
    unplaced = []
    for number, label in sorted(labels.items(), key=lambda pair: (pair[1].colour != MENTIONED, area(pair[1].box))):
        across = round(font(LABEL_SIZE).getlength(label.text)) + 4
        for x, y in places(label.box, across, LABEL_SIZE + 3):
            chip = (x, y, x + across - 1, y + LABEL_SIZE + 2)
            inside = x >= 0 and y >= 0 and chip[2] < size[0] and chip[3] < size[1]
            if inside and not any(overlap(chip, other) for other in taken):
                taken.append(chip)
                draw.rectangle(chip, fill=label.colour)
                middle = y + (LABEL_SIZE + 3) / 2
                draw.text((x + 2, middle), label.text, NAME_COLOURS[label.colour], font(LABEL_SIZE), anchor="lm")
                break
        else:
            unplaced.append(number)
    return unplaced


def places(box: Rectangle, across: int, down: int) -> Iterator[tuple[int, int]]:
    """Yield the corners (left, top) where a label may stand: above, inside at the top, below, inside at the bottom."""
    left, top, right, bottom = box
    for y in (top - down, top, bottom + 1, bottom - down + 1):
        for x in (left, right - across + 1):
            yield x, y


def overlap(one: Rectangle, other: Rectangle) -> bool:
    """Say whether two rectangles share a pixel."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def area(box: Rectangle) -> int:
    """Return the number of pixels of a rectangle."""
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def wrap(text: str, typeface: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` pixels; longer words are cut, a long text ends with "…"."""
    lines = [""]
    for word in text.split():
        if typeface.getlength(f"{lines[-1]} {word}".lstrip()) <= width:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and typeface.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
        if len(lines) > MAX_LINES:
            break
    if len(lines) > MAX_LINES:
        last = lines[MAX_LINES - 1]
        while typeface.getlength(last + "…") > width:
            last = last[:-1]
        lines[MAX_LINES - 1 :] = [last + "…"]
    return lines
