"""VCR-like items: one true choice of four, and no way to find it without the picture."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from datamodules.toy.commonsense import FAMILIES, FAMILIES_OF_TRAIN, VCRItem, four_values, vcr_items
from datamodules.toy.world import Scene, draw_scene
from tests.datamodules.toy.worlds import holds

SCENES = 4000


@pytest.fixture(scope="module", params=[FAMILIES, FAMILIES_OF_TRAIN], ids=["val", "train"])
def families(request: pytest.FixtureRequest) -> dict[str, float]:
    shares: dict[str, float] = request.param
    return shares


@pytest.fixture(scope="module")
def asked(families: dict[str, float]) -> list[tuple[Scene, VCRItem]]:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(SCENES)]
    return [(scene, item) for scene in scenes for item in vcr_items(scene, rng, families)]


def test_exactly_one_answer_and_one_rationale_are_true_of_the_picture(
    asked: list[tuple[Scene, VCRItem]],
) -> None:
    for scene, item in asked:
        assert [holds(scene, choice) for choice in item.answer_choices] == [i == item.answer_label for i in range(4)]
        assert [holds(scene, choice) for choice in item.rationale_choices] == [
            i == item.rationale_label for i in range(4)
        ]


def test_answers_differ_and_tag_the_object_asked_about(asked: list[tuple[Scene, VCRItem]]) -> None:
    for _, item in asked:
        tags = [token for token in item.question if isinstance(token, list)]
        assert len({str(choice) for choice in item.answer_choices}) == 4
        assert all(choice[0] == tags[0] for choice in item.answer_choices)


def test_rationales_differ_and_tell_what_the_answers_do_not(asked: list[tuple[Scene, VCRItem]]) -> None:
    for _, item in asked:
        assert len({str(choice) for choice in item.rationale_choices}) == 4
        (told,) = {str(choice[0]) for choice in item.rationale_choices}
        other_object = told != str(item.answer_choices[0][0])
        assert other_object == (item.family in ("colour", "size"))
        answer_words, rationale_words = (
            {token for choice in choices for token in choice[2:] if isinstance(token, str)}
            for choices in (item.answer_choices, item.rationale_choices)
        )
        if item.family == "place":
            assert not answer_words & rationale_words


def test_families_have_their_shares_and_labels_are_balanced(
    asked: list[tuple[Scene, VCRItem]], families: dict[str, float]
) -> None:
    found = Counter(item.family for _, item in asked)
    for family in ("size", "place"):
        assert found[family] / len(asked) == pytest.approx(families[family], abs=0.02)
    assert 0.7 * families["relation"] < found["relation"] / len(asked) < 0.85 * families["relation"]
    for labels in ([item.answer_label for _, item in asked], [item.rationale_label for _, item in asked]):
        expected = len(labels) / 4
        assert np.abs(np.bincount(labels, minlength=4) - expected).max() < 4 * expected**0.5


class Permutations:
    """Stands in for a random generator: permutes the wrong values as told, and not the choices."""

    def __init__(self, chosen: Sequence[int]) -> None:
        self.chosen = chosen

    def permutation(self, values: int | Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if isinstance(values, int):
            return np.arange(values)
        return np.array([values[i] for i in self.chosen])


@pytest.mark.parametrize("others", [1, 2])
def test_given_four_values_each_is_equally_often_the_right_one(others: int) -> None:
    kinds = 6
    counts: dict[frozenset[int], Counter[int]] = defaultdict(Counter)
    for values in itertools.product(range(kinds), repeat=1 + others):  # the object's own value comes first
        for chosen in itertools.permutations(range(kinds - 1)):
            choices, label = four_values(values, 0, kinds, Permutations(chosen))  # type: ignore[arg-type]
            assert choices[label] == values[0]
            counts[frozenset(choices)][values[0]] += 1
    assert len(counts) == 15  # all sets of four of six
    for found in counts.values():
        assert len(found) == 4
        assert len(set(found.values())) == 1


def test_wrong_values_are_those_of_other_objects_first() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        choices, label = four_values([0, 4, 0, 5], 0, 6, rng)
        assert choices[label] == 0
        assert {4, 5} <= set(choices)


def test_no_word_of_a_choice_makes_it_likelier_true(asked: list[tuple[Scene, VCRItem]]) -> None:
    """Of the choices that say a word or a phrase, a quarter is true: neither betrays anything."""
    for words in (
        _word_table((item.answer_choices, item.answer_label) for _, item in asked),
        _word_table((item.rationale_choices, item.rationale_label) for _, item in asked),
    ):
        for true, expected in words.values():
            assert abs(true - expected) < 4.5 * expected**0.5 + 1


def _word_table(
    items: Iterable[tuple[list[list[str | list[int]]], int]],
) -> dict[str, tuple[float, float]]:
    """Return for each word in how many true choices it stands, and a quarter of all choices that say it."""
    true: Counter[str] = Counter()
    expected: dict[str, float] = defaultdict(float)
    for choices, label in items:
        for number, choice in enumerate(choices):
            for word in {" ".join(str(token) for token in choice[1:]), *map(str, choice[1:])}:
                true[word] += number == label
                expected[word] += 0.25
    return {word: (true[word], expected[word]) for word in expected}
