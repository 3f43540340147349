from __future__ import annotations

import pytest

from vle_lightning.demo.limits import Limits
from vle_lightning.demo.tagged import Objects, build_annotation, read_tagged, write_tagged
from vle_lightning.errors import UserError
from vle_lightning.inference.vcr_layout import read_annotation, read_boxes

TWO = Objects(("dog", "car"), ((0, 0, 50, 50), (10, 10, 20, 20)))


def test_tags_are_read_and_written() -> None:
    parts = read_tagged("Where's [0], near [0,1]?", "question", 2)
    assert parts == ["Where's", [0], ",", "near", [0, 1], "?"]
    assert write_tagged(parts) == "Where's [0] , near [0, 1] ?"
    assert read_tagged(write_tagged(parts), "question", 2) == parts


def test_a_tag_of_no_box_is_refused() -> None:
    with pytest.raises(UserError, match="The question tags object 2, but the picture has 2 boxes"):
        read_tagged("where is [2]", "question", 2)


def test_a_click_finds_the_smallest_box() -> None:
    assert TWO.at(15, 15) == 1
    assert TWO.at(5, 40) == 0
    assert TWO.at(60, 60) is None


def test_two_clicks_draw_a_box_from_any_corner() -> None:
    limits = Limits(boxes=3)
    drawn = TWO.with_corner(90, 80, "person", limits).with_corner(60, 70, "person", limits)
    assert (drawn.names[2], drawn.boxes[2], drawn.corner) == ("person", (60, 70, 90, 80), None)
    with pytest.raises(UserError, match="remove one"):
        drawn.with_corner(1, 1, "person", limits)
    with pytest.raises(UserError, match="no extent"):
        TWO.with_corner(1, 1, "a", limits).with_corner(1, 9, "a", limits)
    assert len(TWO.with_corner(1, 1, "a" * 50, limits).with_corner(9, 9, "a" * 50, limits).names[2]) == 50
    with pytest.raises(UserError, match="The class has 51 characters; this page takes up to 50"):
        TWO.with_corner(1, 1, "a" * 51, limits)
    assert drawn.without_last() == TWO
    assert TWO.with_corner(1, 1, "a", limits).without_last() == TWO


def test_an_annotation_is_in_the_official_layout() -> None:
    texts = ["[0] is here", "no", "two", "red"]
    built = build_annotation(TWO, "where is [0]?", texts, texts, answer=1)
    read = read_annotation(built, "qa2r")
    assert read.objects == ("dog", "car")
    assert read.question == ("where", "is", (0,), "?")
    assert (read.answer_label, read.rationale_choices[0]) == (1, ((0,), "is", "here"))
    assert read_boxes(built) == TWO.boxes
    with pytest.raises(UserError, match="There are no boxes"):
        build_annotation(Objects(), "where?", texts)
