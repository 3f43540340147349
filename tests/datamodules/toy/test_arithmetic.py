"""Ceilings and floors against brute force, simulation and hand calculation."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from datamodules.toy import arithmetic
from datamodules.toy.arithmetic import CONTENT_WORDS, Captioned
from datamodules.toy.coverage import GRID, covered, expected_coverage, footprint_likelihood
from datamodules.toy.language import Caption, captions, fitting, parse, readings
from datamodules.toy.world import CLASSES, SIZE_PIXELS, Scene, SceneObject, draw_scene
from tests.datamodules.toy.worlds import make_object, make_scene


def make_data(count: int, seed: int = 0) -> list[Captioned]:
    """Draw scenes with two captions each."""
    rng = np.random.default_rng(seed)
    scenes = [draw_scene(rng) for _ in range(count)]
    return [(scene, captions(scene, rng, 2)) for scene in scenes]


def patches_by_hand(item: SceneObject) -> frozenset[tuple[int, int]]:
    """Return the 8 px patches that any pixel of the box lies in."""
    x0, y0, x1, y1 = item.box
    return frozenset((y // 8, x // 8) for y in range(y0, y1) for x in range(x0, x1))


def test_itm_ceiling_counts_captions_that_are_true_of_other_scenes() -> None:
    data = make_data(60)
    errors = [
        bool(list(fitting(parse(caption.text), other.objects)))
        for (i, (_, texts)), (j, (other, _)) in itertools.product(enumerate(data), enumerate(data))
        if i != j
        for caption in texts
    ]
    assert 0 < sum(errors) < len(errors)
    assert arithmetic.itm_ceiling(data) == pytest.approx(1 - 0.5 * np.mean(errors))


def test_mlm_floor_by_hand() -> None:
    assert arithmetic.mlm_content_floor() == pytest.approx(0.1 + 0.9 * (1 / 6 + 1 / 4 + 1 / 3) / 3)


def test_mlm_ceiling_of_one_word_captions_by_all_masks() -> None:
    scene = make_scene("small red circle top left", "large red circle top right")
    text = "small red circle"
    shares: dict[tuple[str, ...], float] = defaultdict(float)
    for statement, share in readings(scene):
        shares[tuple(statement.text.split())] += share
    total = weight_of_scored = 0.0
    for state in itertools.product(("seen", "kept", "hidden"), repeat=3):
        weight = math.prod({"seen": 0.85, "kept": 0.015, "hidden": 0.135}[word] for word in state)
        for position, word_state in enumerate(state):
            if word_state == "seen":
                continue
            guesses: dict[str, float] = defaultdict(float)
            for words, share in shares.items():
                if len(words) == 3 and all(
                    s == "hidden" or a == b for a, b, s in zip(words, text.split(), state, strict=True)
                ):
                    guesses[words[position]] += share
            total += weight * max(guesses.values()) / sum(guesses.values())
            weight_of_scored += weight
    data = [(scene, [Caption(text, (0,))] * 5000)]
    found = arithmetic.mlm_content_ceiling(data, np.random.default_rng(0))
    assert found == pytest.approx(total / weight_of_scored, abs=0.005)
    assert found < 0.9  # with the size hidden both are possible


def test_mlm_ceiling_is_one_where_all_objects_are_alike() -> None:
    scene = make_scene("small red circle top left", "small red circle top right")
    data = [(scene, captions(scene, np.random.default_rng(0), 20))]
    assert arithmetic.mlm_content_ceiling(data, np.random.default_rng(1)) == pytest.approx(1)


def test_caption_tables_hold_every_caption() -> None:
    scene = make_scene("small red circle top left", "large blue cross bottom right")
    tables = arithmetic.caption_tables(scene)
    assert sum(shares.sum() for _, shares in tables.values()) == pytest.approx(1)
    assert set(tables) == {
        3,
        5,
        7,
        8,
        10,
    }  # one or two places; one name; two names around "above" or "left of"
    assert set(np.unique(tables[3][0])) <= CONTENT_WORDS


def test_class_posterior_equals_bayes_over_whole_scenes() -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        scene = draw_scene(rng)
        caption = captions(scene, rng, 1)[0]
        number = int(rng.integers(len(scene.objects)))
        hidden = scene.objects[number]
        expected = np.zeros(len(CLASSES))
        for size, colour, shape in itertools.product(range(3), range(6), range(4)):
            starts = [
                (hidden.cell % 3 * 16 + right, hidden.cell // 3 * 16 + down)
                for right, down in itertools.product(range(0, 17 - SIZE_PIXELS[size], 2), repeat=2)
            ]
            guesses = [SceneObject(hidden.cell, colour, shape, size, x, y) for x, y in starts]
            same = np.mean([patches_by_hand(guess) == patches_by_hand(hidden) for guess in guesses])
            guessed = Scene((*scene.objects[:number], guesses[0], *scene.objects[number + 1 :]))
            text = sum(share for statement, share in readings(guessed) if statement.text == caption.text)
            expected[colour * 4 + shape] += same * text
        posterior = arithmetic.class_posterior(parse(caption.text), scene.objects, number)
        np.testing.assert_allclose(posterior, expected / expected.sum(), atol=1e-12)


def test_a_named_hidden_object_is_known_and_an_unnamed_one_is_not() -> None:
    scene = make_scene("small red circle top left", "large blue cross bottom right")
    named = arithmetic.class_posterior(parse("small red circle top left"), scene.objects, 0)
    assert CLASSES[named.argmax()] == "red circle"
    assert named.max() == pytest.approx(1)
    unnamed = arithmetic.class_posterior(parse("small red circle top left"), scene.objects, 1)
    np.testing.assert_allclose(unnamed, 1 / 24)  # the place says that the hidden object is another one


@pytest.mark.slow
def test_named_class_share_by_hand_and_by_simulation() -> None:
    # one name: scenes of 2, 3, 4, 5 objects name one with probability 1/2, 1/3, 1/3, 1/3
    by_hand = sum(weight * (1 + (n - 1) / 24) / n for n, weight in ((2, 1 / 2), (3, 1 / 3), (4, 1 / 3), (5, 1 / 3))) / (
        3 / 2
    )
    assert arithmetic.named_class_share(parse("small red circle")) == pytest.approx(by_hand)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(20_000):
        scene = draw_scene(rng)
        caption = captions(scene, rng, 1)[0]
        guess = CLASSES[parse(caption.text).kinds[0][1] * 4 + parse(caption.text).kinds[0][2]]
        drawn.append((caption, guess == scene.objects[int(rng.integers(len(scene.objects)))].class_name))
    expected = arithmetic.mpc_floor([caption for caption, _ in drawn])
    assert np.mean([right for _, right in drawn]) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("text", ["medium red circle middle right", "small red circle left of large blue cross"])
def test_expected_coverage_equals_the_average_of_scenes(text: str) -> None:
    statement = parse(text)
    rng = np.random.default_rng(0)
    total, weight_of_all = np.zeros((GRID, GRID)), 0.0
    for _ in range(6000):
        scene = draw_scene(rng)
        named = scene.objects[: len(statement.kinds)]
        items = [_resized(item, size, rng) for item, (size, _, _) in zip(named, statement.kinds, strict=True)]
        if statement.cells is not None:
            weight = float(tuple(item.cell for item in items) == statement.cells)
        else:
            one, other = items
            weight = float(one.column < other.column) / (1 + (one.row != other.row))
        total += weight * covered(items)
        weight_of_all += weight
    np.testing.assert_allclose(expected_coverage(statement), total / weight_of_all, atol=0.07)


def _resized(item: SceneObject, size: int, rng: np.random.Generator) -> SceneObject:
    """Give an object another size and a jitter that suits it."""
    right, down = 4 * rng.integers((16 - SIZE_PIXELS[size]) // 4 + 1, size=2)
    x, y = item.column * 16 + int(right), item.row * 16 + int(down)
    return SceneObject(item.cell, item.colour, item.shape, size, x, y)


def test_footprints_by_hand() -> None:
    small, medium = make_object("small red circle top left"), make_object("medium red circle top left")
    assert footprint_likelihood(small, 0) == pytest.approx(1 / 9)  # only one of 3 x 3 starts covers the first patch
    assert footprint_likelihood(small, 1) == 0
    assert footprint_likelihood(medium, 0) == pytest.approx(1 / 9)  # 1 of 3 starts straddles, on both axes
    assert footprint_likelihood(medium, 1) == footprint_likelihood(medium, 2) == 1
    assert {tuple(map(int, patch)) for patch in np.argwhere(covered([small, medium]))} == patches_by_hand(medium)


def test_best_overlap_tries_every_threshold() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 6, 200) / 5, rng.random(200) < 0.3
    by_hand = max(((scores >= t) & targets).sum() / ((scores >= t) | targets).sum() for t in sorted(set(scores)))
    assert arithmetic.best_overlap(scores, targets) == pytest.approx(by_hand)


def test_pbc_floor_of_places_is_the_uncertainty_of_the_jitter_alone() -> None:
    data = [
        (scene, [Caption("large red circle top left", (0,))]) for scene in [make_scene("large red circle top left")]
    ]
    assert arithmetic.pbc_floor(data) == 1
    small = make_scene("small red circle top left")  # covers one patch of the four that it may cover
    assert arithmetic.pbc_floor([(small, [Caption("small red circle top left", (0,))])]) == pytest.approx(1 / 4)


@pytest.mark.parametrize("kinds", [2, 3, 4, 6])
def test_annotator_credit_equals_simulated_annotators(kinds: int) -> None:
    rng = np.random.default_rng(0)
    slip = 0.1 / (kinds - 1)
    counts = rng.multinomial(10, [0.9, *[slip] * (kinds - 1)], size=100_000)
    counts = counts[counts[:, 0] > 5]
    right, wrong = arithmetic.annotator_credit(kinds)
    assert right == pytest.approx(1)  # six of ten are more than the three that full credit takes
    assert wrong == pytest.approx(np.minimum(1, 0.3 * counts[:, 1]).mean(), abs=0.003)
    assert arithmetic.vqa_floor(kinds) == pytest.approx((1 + (kinds - 1) * wrong) / kinds)
