"""Scenes and their drawings in NLVR's style."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.nlvr_world.paint import GREY, LIGHT, PAINT, paint, structured
from datamodules.nlvr_world.scenes import BOX_PIXELS, Item, Layout, draw_scene, items_of


@pytest.mark.parametrize("layout", ["scattered", "towers"])
def test_objects_lie_in_their_box_apart_from_each_other(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        for box in draw_scene(layout, rng):
            taken = np.zeros((BOX_PIXELS, BOX_PIXELS), int)
            for item in box:
                assert min(item.gaps) >= 0
                taken[item.y : item.y + item.pixels, item.x : item.x + item.pixels] += 1
            assert taken.max() == 1


def test_towers_stand_on_the_floor_block_on_block() -> None:
    rng = np.random.default_rng(1)
    heights = set()
    for _ in range(40):
        for tower in draw_scene("towers", rng):
            heights.add(len(tower))
            assert [item.y for item in tower] == [80, 59, 38, 17][: len(tower)]
            assert {(item.x, item.pixels, item.shape) for item in tower} == {(40, 20, "square")}
    assert heights == {1, 2, 3, 4}


def test_big_objects_touch_the_lower_wall_more_often() -> None:
    rng = np.random.default_rng(2)
    items = [item for _ in range(400) for item in items_of(draw_scene("scattered", rng))]
    for pixels in (10, 20, 30):
        touching = [item.gaps[3] == 0 for item in items if item.pixels == pixels]
        assert np.mean(touching) == pytest.approx(pixels / 100, abs=0.06)


def test_a_drawing_has_three_boxes_on_grey_and_objects_in_their_colours() -> None:
    square = Item(0, 80, 20, "square", "blue")
    pixels = np.asarray(paint(((square,), (), (square._replace(x=80, colour="yellow"),))))
    assert pixels.shape == (100, 400, 3)
    assert (pixels[:, 100:150] == GREY).all()
    assert (pixels[:, 250:300] == GREY).all()
    assert (pixels[:, 150:250] == LIGHT).all()
    assert (pixels[80:, :20] == PAINT["blue"]).all()
    assert (pixels[80:, 380:] == PAINT["yellow"]).all()


def test_shapes_fill_their_share_of_the_box() -> None:
    shares = {"square": 1.0, "circle": np.pi / 4, "triangle": 0.5}
    for shape, share in shares.items():
        pixels = np.asarray(paint(((Item(10, 10, 30, shape, "black"),), (), ())), float)[10:40, 10:40, 0]
        assert 1 - pixels.mean() / LIGHT == pytest.approx(share, abs=0.01)


def test_a_scene_is_described_as_the_official_rows_are() -> None:
    described = structured(((Item(3, 4, 20, "circle", "blue"),), (), ()))
    assert described == [[{"type": "circle", "color": "#0099ff", "x_loc": 3, "y_loc": 4, "size": 20}], [], []]
