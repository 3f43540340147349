"""Scenes and their pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from datamodules.toy.world import (
    _PAINT,
    CELL_PIXELS,
    CLASSES,
    COLOURS,
    SCENE_PIXELS,
    SHAPES,
    SIZE_PIXELS,
    Scene,
    draw_scene,
    relations,
    render,
    stencil,
)
from tests.datamodules.toy.worlds import RELATED, make_object, make_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [draw_scene(rng) for _ in range(2000)]


def test_objects_lie_in_distinct_cells_and_within_them(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 2 <= len(scene.objects) <= 5
        assert len({item.cell for item in scene.objects}) == len(scene.objects)
        for item in scene.objects:
            x0, y0, x1, y1 = item.box
            assert x0 // CELL_PIXELS == (x1 - 1) // CELL_PIXELS == item.cell % 3
            assert y0 // CELL_PIXELS == (y1 - 1) // CELL_PIXELS == item.cell // 3
            assert x1 - x0 == y1 - y0 == SIZE_PIXELS[item.size]
            assert x0 % 2 == y0 % 2 == 0


def test_every_attribute_cell_and_count_is_equally_frequent(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    for values, kinds in (
        ([item.class_id for item in objects], 24),
        ([item.size for item in objects], 3),
        ([item.cell for item in objects], 9),
        ([len(scene.objects) - 2 for scene in scenes], 4),
        ([scene.objects[0].cell for scene in scenes], 9),  # an object's number says nothing about its place
    ):
        expected = len(values) / kinds
        assert np.abs(np.bincount(values, minlength=kinds) - expected).max() < 4 * expected**0.5


@pytest.mark.parametrize("pixels", SIZE_PIXELS)
def test_shapes_touch_all_edges_of_their_box_and_differ(pixels: int) -> None:
    stencils = [stencil(shape, pixels)[:, :, 0] for shape in range(len(SHAPES))]
    for drawn in stencils:
        for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
            assert edge.max() > 0
    for one, other in itertools.combinations(stencils, 2):
        assert np.abs(one - other).mean() > 0.15


def test_colours_are_told_apart_from_each_other_and_from_the_ground(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(1)
    for scene in scenes[:300]:
        pixels = render(scene, rng).astype(float)
        assert pixels.shape == (SCENE_PIXELS, SCENE_PIXELS, 3)
        ground = np.ones((SCENE_PIXELS, SCENE_PIXELS), bool)
        for item in scene.objects:
            x0, y0, x1, y1 = item.box
            ground[y0:y1, x0:x1] = False
            inside = pixels[y0:y1, x0:x1][stencil(item.shape, item.pixels)[:, :, 0] == 1].mean(0)
            assert np.ptp(inside) > 90
            assert COLOURS[np.abs(_PAINT - inside).sum(1).argmin()] == COLOURS[item.colour]
        assert np.ptp(pixels[ground], axis=-1).max() < 40


def test_the_key_forgets_order_and_jitter_only() -> None:
    one = make_scene("small red circle top left", "large blue cross middle centre")
    turned = Scene(one.objects[::-1])
    assert one.key == turned.key
    assert one.key != make_scene("small red circle top left", "large blue cross middle right").key


def test_relations_are_those_of_rows_and_columns() -> None:
    for one, other in itertools.permutations(("top left", "middle centre", "bottom centre", "top right"), 2):
        first, second = (make_object(f"small red circle {place}") for place in (one, other))
        assert set(relations(first, second)) == {name for name, test in RELATED.items() if test(first, second)}


def test_class_names_combine_colour_and_shape() -> None:
    assert len(set(CLASSES)) == 24
    assert make_object("small blue triangle top left").class_name == "blue triangle"
