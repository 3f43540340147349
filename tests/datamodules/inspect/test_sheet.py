"""The contact sheet: boxes are where arithmetic says, labels and lines keep apart, texts are those of the sample."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from datamodules.inspect.cell import CELL_WIDTH, PICTURE_HEIGHT, Unread, draw_cell, draw_text, open_scaled, paragraphs
from datamodules.inspect.drawing import (
    MAX_LINES,
    MENTIONED,
    OTHER,
    OUTLINE,
    Label,
    draw_boxes,
    font,
    overlap,
    pixel_box,
    place_labels,
    wrap,
)
from datamodules.inspect.sheet import choose, draw_sheet
from datamodules.records import Question, Record, Statement, Text
from datamodules.shards import RawSample, ShardFolder
from tests.datamodules.shard_factory import make_record, picture, write_shards

WHITE = (255, 255, 255)
BOXES = ((0.1, 0.25, 0.5, 0.75), (0.6, 0.5, 1.0, 1.0))  # of 200 x 100 px: columns 20-99, rows 25-74; 120-199, 50-99


def drawn(mentioned: set[int]) -> NDArray[np.uint8]:
    """Draw the boxes, without names, on white; (100, 200, 3)."""
    shown = Image.new("RGB", (200, 100), WHITE)
    assert draw_boxes(shown, BOXES, ("", ""), mentioned) == []
    return np.asarray(shown)


def frame(shape: tuple[int, int, int, int], line: int) -> NDArray[np.bool_]:
    """Return (100, 200), True within ``line`` pixels of the edge of columns and rows left, top to right, bottom."""
    left, top, right, bottom = shape
    inside = np.zeros((100, 200), dtype=bool)
    inside[top : bottom + 1, left : right + 1] = True
    inside[top + line : bottom + 1 - line, left + line : right + 1 - line] = False
    return inside


def test_boxes_are_drawn_where_arithmetic_says() -> None:
    pixels = drawn({1})
    other, mentioned = frame((20, 25, 99, 74), 2), frame((120, 50, 199, 99), 3)
    dark = frame((20, 25, 99, 74), 3) & ~other | frame((120, 50, 199, 99), 4) & ~mentioned
    for colour, where in ((OTHER, other), (MENTIONED, mentioned), (OUTLINE, dark)):
        np.testing.assert_array_equal((pixels == colour).all(-1), where)
    assert (pixels[~(other | mentioned | dark)] == WHITE).all()


def test_mentioned_boxes_lie_on_top() -> None:
    shown = Image.new("RGB", (200, 100), WHITE)
    draw_boxes(shown, (BOXES[0], BOXES[0]), ("", ""), {0})
    pixels = np.asarray(shown)
    assert (pixels[frame((20, 25, 99, 74), 3)] == MENTIONED).all()


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 9, 19)),
        ((0.3, 0.5, 0.4, 0.55), (3, 10, 3, 10)),
        ((0.999, 0.999, 1.0, 1.0), (9, 19, 9, 19)),
        ((0.5, 0.5, 0.501, 0.501), (5, 10, 5, 10)),
    ],
)
def test_a_box_covers_at_least_one_pixel_inside(
    box: tuple[float, float, float, float], pixels: tuple[int, int, int, int]
) -> None:
    assert pixel_box(box, 10, 20) == pixels


def test_a_label_stands_above_its_box_and_within_the_picture() -> None:
    shown = Image.new("RGB", (200, 100), WHITE)
    assert draw_boxes(shown, (BOXES[0],), ("dog",), set()) == []
    coloured = (np.asarray(shown) == OTHER).all(-1)
    assert coloured[24, 20]
    assert not coloured[:10].any()
    assert not coloured[:, :20].any()


def test_labels_never_overlap_and_those_without_room_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chips: list[tuple[int, int, int, int]] = []
    rectangle = ImageDraw.ImageDraw.rectangle

    def noted(self: ImageDraw.ImageDraw, place: tuple[int, int, int, int], **options: object) -> None:
        chips.append(place)
        rectangle(self, place, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", noted)
    shown = Image.new("RGB", (200, 100), WHITE)
    labels = {number: Label("chair", OTHER, (20, 25, 99, 74)) for number in range(20)}
    unplaced = place_labels(ImageDraw.Draw(shown), labels, shown.size)
    assert len(chips) + len(unplaced) == 20
    assert 4 <= len(chips) <= 8  # eight places are tried for a box
    assert not any(overlap(one, other) for one, other in itertools.combinations(chips, 2))
    assert all(left >= 0 and top >= 0 and right < 200 and bottom < 100 for left, top, right, bottom in chips)


def test_lines_are_as_wide_as_allowed_and_lose_nothing() -> None:
    text = "several words of a caption and onewordthatismuchlongerthanasinglelineofthecell again"
    lines = wrap(text, font(13), 150)
    assert 4 <= len(lines) < MAX_LINES
    assert all(font(13).getlength(line) <= 150 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("a  b\nc", font(13), 150) == ["a b c"]


def test_a_text_of_too_many_lines_says_that_it_goes_on() -> None:
    lines = wrap("word " * 200, font(13), 150)
    assert len(lines) == MAX_LINES
    assert lines[0] == lines[1] != lines[-1]
    assert lines[-1].startswith("word word")
    assert lines[-1].endswith("…")
    assert font(13).getlength(lines[-1]) <= 150


def test_pictures_are_scaled_to_their_room() -> None:
    small = open_scaled(picture(0, 48, 40), CELL_WIDTH)
    assert small.size == (48 * 7, 40 * 7)  # 380 // 48
    assert (np.asarray(small)[:7, :7] == np.asarray(small)[0, 0]).all()
    large = open_scaled(picture(0, 760, 400), CELL_WIDTH)
    assert large.size == (CELL_WIDTH, 200)
    assert open_scaled(picture(0, 10, 2000), CELL_WIDTH).size == (2, PICTURE_HEIGHT)


def sample(record: Record, image: bytes, right: bytes | None = None) -> RawSample:
    """Return the first sample of a record."""
    return RawSample(f"{record.image_id}/0", image, record, 0, "0.tar, sample 0", right)


def test_the_boxes_that_a_caption_mentions_are_highlighted() -> None:
    record = make_record(0)  # its first text mentions box 0
    cell = np.asarray(draw_cell(sample(record, picture(0)), "texts"))
    unknown = dataclasses.replace(record, texts=record.texts[1:])
    plain = np.asarray(draw_cell(sample(unknown, picture(0)), "texts"))
    assert (cell == MENTIONED).all(-1).any()
    assert not (plain == MENTIONED).all(-1).any()
    assert (plain == OTHER).all(-1).any()


def test_the_boxes_that_a_question_tags_are_highlighted() -> None:
    cell = np.asarray(draw_cell(sample(make_record(0), picture(0)), "vcr"))
    assert (cell == MENTIONED).all(-1).any()


def test_a_question_about_objects_is_told_with_its_tags_and_the_right_choices() -> None:
    record = make_record(1)  # answer 1, rationale 2
    told = [paragraph.text for paragraph in paragraphs(record.vcr[0], record)]
    name = "[0 green square]"
    assert told == [
        f"what colour is {name} ?",
        "answers",
        *(f"{'✓' if i == 1 else '–'} {name} is {c}" for i, c in enumerate(("red", "green", "blue", "yellow"))),
        "because",
        *(
            f"{'✓' if i == 2 else '–'} [1 person] and {name} are {c} ."
            for i, c in enumerate(("red", "green", "blue", "yellow"))
        ),
    ]


def test_answers_labels_and_what_is_hidden_are_told() -> None:
    question = Question("1", "what is it?", ("dog", "cat", "dog"), "other", "what is")
    assert [p.text for p in paragraphs(question, Record("a"))] == ["what is it?", "dog ×2, cat ×1", "other / what is"]
    hidden = dataclasses.replace(question, answers=())
    assert paragraphs(hidden, Record("a"))[1].text == "answers hidden"
    statement = Statement("1", "two dogs", "true", "7")
    assert [p.text for p in paragraphs(statement, Record("a"))] == ["two dogs", "true", "group 7"]
    assert paragraphs(dataclasses.replace(statement, label=None), Record("a"))[1].text == "label hidden"
    boxed = Record("a", boxes=((0.0, 0.0, 1.0, 1.0),), names=("dog",))
    notes = [paragraphs(Text("1", "a dog", boxes), boxed)[1].text for boxes in (None, (), (0,))]
    assert notes == ["it is not known which boxes this mentions", "this mentions no box", ""]
    assert paragraphs(Text("1", "a dog", None), Record("a"))[1].text == ""


def test_a_pair_of_pictures_stands_side_by_side() -> None:
    record = Record("p", statements=(Statement("0", "two dogs", "true", ""),))
    red, blue = (np.full((100, 100, 3), colour, dtype=np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    cell = np.asarray(draw_cell(sample(record, encoded(red), encoded(blue)), "statements")).astype(int)
    is_red, is_blue = cell[..., 0] - cell[..., 2] > 200, cell[..., 2] - cell[..., 0] > 200
    assert is_red.sum() == is_blue.sum() == 100 * 100
    assert is_red.any(0).nonzero()[0].max() < is_blue.any(0).nonzero()[0].min()
    np.testing.assert_array_equal(is_red.any(1), is_blue.any(1))


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_broken_sample_has_a_cell_that_says_so() -> None:
    record = make_record(0)
    tagless = dataclasses.replace(record, boxes=(), names=())
    for cell in (
        draw_cell(sample(record, b"no picture"), "texts"),
        draw_cell(sample(tagless, picture(0)), "vcr"),
        draw_cell(Unread("000000.tar, sample 3", "bad json: no"), "texts"),
    ):
        assert cell.width == CELL_WIDTH
        assert cell.height < 100
        red = np.asarray(cell)[..., 0].astype(int) - np.asarray(cell)[..., 1]
        assert red.max() > 100


def test_text_is_never_wider_or_higher_than_its_room() -> None:
    told = paragraphs(Text("1", "gggg ÄÄÄÄ " * 60, None), Record("a"))
    shown = np.asarray(draw_text(told))
    assert shown.shape[1] == CELL_WIDTH
    assert (shown[-1] == WHITE).all()
    assert (shown[0] == WHITE).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    """Thirty images with two texts each, in shards of eight samples."""
    path = tmp_path_factory.mktemp("sheet") / "toy" / "train"
    write_shards(path, "texts", map(make_record, range(30)))
    return ShardFolder(path)


def test_samples_are_of_different_images_and_chosen_by_the_seed(folder: ShardFolder) -> None:
    def images(number: int, seed: int) -> list[str]:
        chosen = choose(folder, range(8), number, seed)
        return [raw.record.image_id for raw in chosen if isinstance(raw, RawSample)]

    assert len(set(images(12, 0))) == 12
    assert images(12, 0) == images(12, 0) != images(12, 1)
    assert len(images(100, 0)) == len(set(images(100, 0))) == 30


def test_only_the_sound_shards_are_drawn_from(folder: ShardFolder) -> None:
    chosen = choose(folder, (2, 5), 100, 0)
    found = {raw.record.image_id for raw in chosen if isinstance(raw, RawSample)}
    assert found == {f"toy/{number}" for number in (*range(8, 12), *range(20, 24))}


def test_the_same_seed_gives_the_same_sheet(folder: ShardFolder, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert draw_sheet(folder, range(8), tmp_path / "new" / name, 5, 3) == 5
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    assert draw_sheet(folder, (), tmp_path / "none.png", 5, 3) == 0
    assert not (tmp_path / "none.png").exists()
