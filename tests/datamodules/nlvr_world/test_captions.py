"""Captions that mention objects of drawn scenes."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.nlvr_world.captions import draw_captions
from datamodules.nlvr_world.scenes import Box, Item, Layout, Scene, draw_scene

BLOCKS = {"y": "yellow", "k": "black", "b": "blue"}


def towers(text: str) -> Scene:
    def tower(colours: str) -> Box:
        return tuple(Item(40, 80 - 21 * level, 20, "square", BLOCKS[c]) for level, c in enumerate(colours))

    return tuple(map(tower, text.split(",")))


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("blue blocks", {(0, 0), (1, 1), (2, 0), (2, 1)}),
        ("blue block at the base", {(0, 0), (2, 0)}),
        ("a blue block at the top", {(1, 1), (2, 1)}),
        ("blue block below a blue block", {(2, 0)}),
        ("a blue block on a blue block", {(2, 1)}),
        ("a tower with a yellow block at the base", {(1, 0), (1, 1)}),
        ("a tower with only blue blocks", {(2, 0), (2, 1)}),
    ],
)
def test_a_caption_mentions_the_objects_that_its_words_fit(text: str, mentions: set[tuple[int, int]]) -> None:
    scene = towers("bk,yb,bb")
    rng = np.random.default_rng(0)
    drawn = (caption for _ in range(3000) for caption in draw_captions(scene, "towers", 4, rng))
    assert set(next(caption.mentions for caption in drawn if caption.text == text)) == mentions


@pytest.mark.parametrize("layout", ["scattered", "towers"])
def test_each_caption_mentions_something(layout: Layout) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        captions = draw_captions(draw_scene(layout, rng), layout, 3, rng)
        assert len(captions) == 3
        assert all(caption.mentions for caption in captions)
