"""Statements about pairs: true as labelled, balanced, and not to be told without the side."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules.toy.pairs import Block, draw_blocks
from datamodules.toy.world import Scene, draw_scene
from tests.datamodules.toy.worlds import make_scene, true_of_pair

BLOCKS = 400


def draw(pool: list[Scene], count: int) -> list[Block]:
    return list(draw_blocks(pool, [np.random.default_rng(number) for number in range(count)]))


@pytest.fixture(scope="module")
def pool() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [draw_scene(rng) for _ in range(1500)]


@pytest.fixture(scope="module")
def blocks(pool: list[Scene]) -> list[Block]:
    return draw(pool, BLOCKS)


def test_every_label_is_what_the_scenes_say(blocks: list[Block], pool: list[Scene]) -> None:
    for block in blocks:
        for statement in block.statements():
            for pair, label in zip(block.pairs, statement.labels, strict=True):
                left, right = (pool[number] for number in pair.scenes)
                assert label == true_of_pair(left, right, statement.text)


def test_two_of_four_pairs_are_true_and_of_the_others_half_fit_on_the_other_side(blocks: list[Block]) -> None:
    other_side = []
    for block in blocks:
        left, right = (statement.labels for statement in block.statements())
        for own, other in ((left, right), (right, left)):
            assert (len(own), sum(own)) == (4, 2)
            other_side.append(sum(b and not a for a, b in zip(own, other, strict=True)))
    assert set(other_side) == {1, 2}
    assert np.mean(other_side) == pytest.approx(1.5, abs=0.1)


def test_who_ignores_the_side_is_right_five_times_in_eight(blocks: list[Block]) -> None:
    """The best that can be said of a pair is whether the phrase fits both, one or neither of its scenes."""
    labels: dict[int, Counter[bool]] = {0: Counter(), 1: Counter(), 2: Counter()}
    for block in blocks:
        left, right = (statement.labels for statement in block.statements())
        for one, other in zip(left, right, strict=True):
            labels[one + other].update((one, other))
    right_answers = sum(max(found.values()) for found in labels.values())
    assert right_answers / (8 * BLOCKS) == pytest.approx(5 / 8, abs=0.02)


def test_a_large_pool_repeats_no_scene_within_a_block_and_varies_the_phrase(blocks: list[Block]) -> None:
    for block in blocks:
        assert len({number for pair in block.pairs for number in pair.scenes}) == 8
    said = Counter((sum(value >= 0 for value in b.phrase.attributes), b.phrase.cell is not None) for b in blocks)
    for (words, _), count in said.items():  # 3, 3 and 1 of the seven choices of words, half of them with a place
        assert count / BLOCKS == pytest.approx({1: 3, 2: 3, 3: 1}[words] / 14, abs=0.07)
    assert len(said) == 6


def test_the_order_of_the_pairs_tells_nothing(blocks: list[Block]) -> None:
    true = np.mean([statement.labels for block in blocks for statement in block.statements()], axis=0)
    assert np.abs(true - 0.5).max() < 0.07


def test_two_scenes_are_enough_and_two_alike_are_an_error() -> None:
    apart = [make_scene("small red circle top left"), make_scene("large red circle top left")]
    for block in draw(apart, 3):
        assert "small" in block.phrase.text or "large" in block.phrase.text
    with pytest.raises(ValueError, match="the 2 scenes .* show the same"):
        draw([apart[0]] * 2, 1)
