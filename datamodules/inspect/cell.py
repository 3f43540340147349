"""One sample of a contact sheet: its pictures with boxes, and below them its texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageOps

from datamodules.inspect.drawing import Colour, draw_boxes, font, wrap
from datamodules.inspect.wording import Item
from datamodules.pictures import DECODING_ERRORS, load_upright, open_raster, to_rgb
from datamodules.records import Kind, Label, Mask, Question, Record, Statement, TaggedText, Text, VCRItem, WholeImage
from datamodules.shards import RawSample
from datamodules.tagged import UNKNOWN, render

CELL_WIDTH, PICTURE_HEIGHT, GAP = 380, 340, 18
BLACK, GREY, RED = (20, 20, 20), (110, 110, 110), (190, 0, 0)
LINE_HEIGHT = 1.35  # of the size of the letters
BAD_RECORD = (IndexError, TypeError, AttributeError)  # tags without boxes, values of the wrong type


class Unread(NamedTuple):
    """A sample that could not be read."""

    where: str
    what: str


class Paragraph(NamedTuple):
    """A text and how it looks."""

    text: str
    colour: Colour = BLACK
    bold: bool = False
    size: int = 13


def draw_cell(sample: RawSample | Unread, kind: Kind, turn: bool = False) -> Image.Image:
    """Draw one sample, `CELL_WIDTH` wide and as high as it needs; in place of a broken one stands what is wrong.

    Args:
        sample: What to draw.
        kind: Of its folder.
        turn: Turn its picture upright, as the stream does with those of foreign tars.
    """
    if isinstance(sample, Unread):
        return draw_text([Paragraph(sample.where, GREY, size=11), Paragraph(sample.what, RED)])
    head = draw_text([Paragraph(sample.sample_id, GREY, size=11)])
    try:
        return stack([head, *draw_parts(sample, sample.record.items(kind)[sample.item], turn)], CELL_WIDTH, 4)
    except (*DECODING_ERRORS, *BAD_RECORD) as error:
        return stack([head, draw_text([Paragraph(f"cannot be drawn: {error}", RED)])], CELL_WIDTH, 4)


def draw_parts(sample: RawSample, item: Item, turn: bool = False) -> list[Image.Image]:
    """Draw the pictures in a row, and the texts."""
    record, pair = sample.record, sample.right is not None
    width = (CELL_WIDTH - GAP // 2) // 2 if pair else CELL_WIDTH
    pictures = [open_scaled(data, width, turn) for data in (sample.image, sample.right) if data]
    if isinstance(item, Mask):
        pictures[1] = ImageOps.equalize(pictures[1])  # class numbers are nearly black
    numbered = isinstance(item, VCRItem)  # its texts name objects by their numbers
    names = [f"{i} {name or UNKNOWN}" if numbered else name for i, name in enumerate(record.names)]
    unplaced = draw_boxes(pictures[0], record.boxes, names, mentioned(item)) if pictures else []
    told = paragraphs(item, record)
    if unplaced:
        counts = Counter(unplaced).items()
        listed = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in counts)
        told.append(Paragraph(f"no room for the names of: {listed}", GREY, size=11))
    shown = [side_by_side(pictures, CELL_WIDTH, GAP // 2)] if pictures else []
    return [*shown, draw_text(told)]


def open_scaled(data: bytes, width: int, turn: bool = False) -> Image.Image:
    """Decode a picture and scale it to the room that there is; small ones by a whole number, their pixels kept."""
    with open_raster(data) as image:
        picture = load_upright(image).convert("RGB") if turn else to_rgb(image)
    scale = min(width / picture.width, PICTURE_HEIGHT / picture.height)
    scale = int(scale) if scale > 1 else scale
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC)


def mentioned(item: Item) -> set[int]:
    """Return the numbers of the boxes that a text mentions, or a VCR question tags."""
    match item:
        case Text():
            return set(item.boxes or ())
        case VCRItem():
            return {tag for part in item.question if not isinstance(part, str) for tag in part}
        case _:
            return set()


def paragraphs(item: Item, record: Record) -> list[Paragraph]:
    """Return what stands below the picture."""
    match item:
        case WholeImage():
            return []
        case Text():
            known = "" if item.boxes or not record.boxes else "it is not known which boxes this mentions"
            known = "this mentions no box" if item.boxes == () else known
            return [Paragraph(item.text, bold=True), Paragraph(known, GREY, size=11)]
        case Question():
            counted = ", ".join(f"{answer} ×{count}" for answer, count in Counter(item.answers).most_common())
            kinds = " / ".join(filter(None, (item.answer_type, item.question_type)))
            return [
                Paragraph(item.question, bold=True),
                Paragraph(counted or "answers hidden"),
                Paragraph(kinds, GREY, size=11),
            ]
        case VCRItem():
            called = [f"[{number} {name or UNKNOWN}]" for number, name in enumerate(record.names)]
            return [
                Paragraph(render(item.question, called).text, bold=True),
                *choices("answers", item.answer_choices, item.answer_label, called),
                *choices("because", item.rationale_choices, item.rationale_label, called),
            ]
        case Statement():
            group = f"group {item.group}" if item.group else ""
            return [
                Paragraph(item.text, bold=True),
                Paragraph(item.label if item.label is not None else "label hidden"),
                Paragraph(group, GREY, size=11),
            ]
        case Label():
            return [Paragraph(item.label if item.label is not None else "label hidden", bold=True)]
        case Mask():
            return [Paragraph("right: the mask, a class number a pixel", GREY, size=11)]


def choices(title: str, texts: Sequence[TaggedText], label: int | None, called: Sequence[str]) -> list[Paragraph]:
    """Return VCR's choices; the right one is marked, unless it is hidden."""
    heading = title if label is not None else f"{title} (the right one is hidden)"
    told = [
        Paragraph(f"{'✓' if number == label else '–'} {render(text, called).text}", BLACK if number == label else GREY)
        for number, text in enumerate(texts)
    ]
    return [Paragraph(heading, GREY, size=11), *told] if told else []


def draw_text(told: Sequence[Paragraph], width: int = CELL_WIDTH) -> Image.Image:
    """Draw paragraphs below each other, wrapped to ``width`` pixels; those without text take no room."""
    lines = [
        (line, paragraph)
        for paragraph in told
        if paragraph.text.strip()
        for line in wrap(paragraph.text, font(paragraph.size, paragraph.bold), width)
    ]
    heights = [round(paragraph.size * LINE_HEIGHT) for _, paragraph in lines]
    picture = Image.new("RGB", (width, max(1, sum(heights))), "white")
    draw = ImageDraw.Draw(picture)
    for number, (line, paragraph) in enumerate(lines):
        middle = sum(heights[:number]) + heights[number] / 2
        draw.text((0, middle), line, paragraph.colour, font(paragraph.size, paragraph.bold), anchor="lm")
    return picture


def side_by_side(pictures: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Paste pictures in a row, tops in line."""
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def stack(pictures: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Paste pictures below each other."""
    column = Image.new("RGB", (width, sum(picture.height + gap for picture in pictures) - gap), "white")
    top = 0
    for picture in pictures:
        column.paste(picture, (0, top))
        top += picture.height + gap
    return column
