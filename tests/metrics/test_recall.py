"""Recall at k against sorted lists, by hand with ties, and what cannot be ranked."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.metrics.recall import fold_scores, image_ranks, retrieval_scores, text_ranks
from vle_lightning.metrics.retrieval import RetrievalRecall

NAN, INF = math.nan, math.inf


class Case(NamedTuple):
    """Scores of all pairs, images x texts, and the image of each text."""

    scores: list[list[float]]
    owners: list[int]


@st.composite
def cases(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Case:
    """Few different scores, so that ties abound, and captions in any order."""
    count = draw(st.sampled_from(sizes))
    owners = draw(st.permutations([*range(count), *draw(st.lists(st.integers(0, count - 1), max_size=5))]))
    score = st.sampled_from([0.0, 0.25, 0.5, -1.0, -INF])
    return Case([draw(st.lists(score, min_size=len(owners), max_size=len(owners))) for _ in range(count)], owners)


def found(candidates: list[tuple[float, bool]], k: int) -> bool:
    """Sort (score, is right), the best first, wrong ones before right ones of the same score, and look at the first k.

    A right one of score -inf was never ranked, so it is struck from the list.
    """
    ranked = sorted(candidates, key=lambda candidate: (-candidate[0], candidate[1]))
    return any(right and score > -INF for score, right in ranked[:k])


def recalls(case: Case, k: int) -> tuple[float, float]:
    """Return TR@k and IR@k."""
    images, texts = range(len(case.scores)), range(len(case.owners))
    by_image = [found([(case.scores[i][t], case.owners[t] == i) for t in texts], k) for i in images]
    by_text = [found([(case.scores[i][t], case.owners[t] == i) for i in images], k) for t in texts]
    return sum(by_image) / len(by_image), sum(by_text) / len(by_text)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_recall_equals_a_look_at_the_sorted_lists(case: Case) -> None:
    ks = (1, 2, 3, 10)
    actual = retrieval_scores(case.scores, case.owners, ks)
    for k in ks:
        assert (actual.text[k], actual.image[k]) == pytest.approx(recalls(case, k))


@given(cases((2, 4)))
@settings(deadline=None)
def test_folds_are_searched_by_themselves_and_averaged(case: Case) -> None:
    half = len(case.scores) // 2
    parts = []
    for images in (range(half), range(half, 2 * half)):
        texts = [text for text, owner in enumerate(case.owners) if owner in images]
        scores = [[case.scores[image][text] for text in texts] for image in images]
        parts.append(recalls(Case(scores, [case.owners[text] - images[0] for text in texts]), 1))
    actual = fold_scores(case.scores, case.owners, 2, (1,))
    assert actual.text[1] == pytest.approx((parts[0][0] + parts[1][0]) / 2)
    assert actual.image[1] == pytest.approx((parts[0][1] + parts[1][1]) / 2)


def test_ties_by_hand() -> None:
    scores = [
        [0.9, 0.1, 0.9, 0.3],  # captions 0, 1; the wrong 2 equals the best own one: place 2
        [0.2, 0.8, 0.7, 0.7],  # captions 2, 3; the wrong 1 is ahead, their own tie costs nothing: place 2
        [0.9, 0.0, 0.1, 0.0],
    ]
    # text 0: image 2 equals: place 2. text 1: image 1 is ahead: 2. text 2: image 0 is ahead: 2. text 3: 1
    owners = [0, 0, 1, 1]
    assert image_ranks(scores, owners).tolist() == [2, 2, 2, 1]
    assert text_ranks(scores[:2], owners).tolist() == [2, 2]
    assert retrieval_scores(scores[:2], owners, (1, 2)).text == {1: 0.0, 2: 1.0}
    assert retrieval_scores(scores[:2], owners, (1, 2)).image == {1: 0.5, 2: 1.0}


def test_a_model_that_scores_all_pairs_alike_finds_nothing() -> None:
    scores = retrieval_scores(torch.zeros(6, 12), [text // 2 for text in range(12)], (1, 5, 10, 11))
    assert scores.image == {1: 0.0, 5: 0.0, 10: 1.0, 11: 1.0}  # the 6th of 6
    assert scores.text == {1: 0.0, 5: 0.0, 10: 0.0, 11: 1.0}  # behind the 10 of others


def test_what_a_shortlist_left_out_is_never_found() -> None:
    scores = [[0.5, -INF], [0.1, -INF]]
    assert retrieval_scores(scores, [0, 1], (1, 10)) == ({1: 0.5, 10: 0.5}, {1: 0.5, 10: 0.5})


def test_lists_arrays_and_tensors_score_alike() -> None:
    scores, owners = [[1.0, 2.0, 0.0], [0.5, 1.0, 3.0]], [0, 1, 1]
    expected = retrieval_scores(scores, owners)
    assert retrieval_scores(np.array(scores), owners) == expected
    assert retrieval_scores(np.array(scores, dtype=np.float32), owners) == expected
    assert retrieval_scores(torch.tensor(scores).bfloat16(), torch.tensor(owners)) == expected
    assert retrieval_scores([[int(2 * score) for score in row] for row in scores], owners) == expected


def test_scores_that_differ_in_their_last_digit_are_no_tie() -> None:
    assert image_ranks([[1.0 + 1e-12], [1.0]], [0]).tolist() == [1]


def test_five_folds_of_perfect_scores() -> None:
    owners = [image for image in range(10) for _ in range(5)]
    scores = torch.eye(10)[:, owners]
    scores[0, 49] = 2.0  # an image of the first fold and a text of the last never meet
    assert fold_scores(scores, owners).image == {1: 1.0, 5: 1.0, 10: 1.0}
    assert retrieval_scores(scores, owners).image[1] == 0.98


def test_an_empty_set_is_no_number() -> None:
    scores = retrieval_scores([], [])
    assert all(math.isnan(share) for share in (*scores.text.values(), *scores.image.values()))


@pytest.mark.parametrize(
    ("scores", "owners", "message"),
    [
        ([[0.0, 1.0], [NAN, 0.0]], [0, 1], "image 1 and text 0 is not a number"),
        ([[0.0, 1.0], [0.0, 0.0]], [1, 1], "image 0 has no text"),
        ([[0.0, 1.0], [0.0, 0.0]], [0, 2], "text 1 belongs to image 2, but there are 2 images"),
        ([[0.0, 1.0], [0.0, 0.0]], [0, -1], "text 1 belongs to image -1"),
        ([[0.0, 1.0], [0.0, 0.0]], [0, 1, 1], r"they are \(2, 2\) with \(3,\) owners"),
        ([0.0, 1.0], [0, 1], r"they are \(2,\)"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores: list[list[float]], owners: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retrieval_scores(scores, owners)


def test_cuts_and_folds_must_make_sense() -> None:
    with pytest.raises(UserError, match="k >= 1, not 0"):
        retrieval_scores([[1.0]], [0], (0,))
    with pytest.raises(UserError, match="3 images do not make 2 folds"):
        fold_scores(torch.eye(3), range(3), 2)


def test_images_come_in_any_order_and_the_set_orders_them() -> None:
    scores = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)).mul(4).floor()
    owners = [3, 1, 2, 0, 2, 1, 0, 3, 3]
    metric = RetrievalRecall("abcd", ["abcd"[owner] for owner in owners], (1, 2), (1, 2))
    metric.update(["d", "b"], scores[[3, 1]])
    metric.update(["a", "c"], scores[[0, 2]].double())
    assert metric.compute() == {
        1: retrieval_scores(scores, owners, (1, 2)),
        2: fold_scores(scores, owners, 2, (1, 2)),
    }


def test_the_set_names_what_does_not_belong_to_it() -> None:
    with pytest.raises(UserError, match="image 'a' comes twice"):
        RetrievalRecall(["a", "b", "a"], [])
    with pytest.raises(UserError, match="text 1 describes image 'c'"):
        RetrievalRecall(["a", "b"], ["a", "c"])
    metric = RetrievalRecall(["a", "b"], ["a", "b"])
    with pytest.raises(UserError, match="'c' is not in the set"):
        metric.update(["c"], torch.zeros(1, 2))
    with pytest.raises(UserError, match="image 'b' and text 1 is not a number"):
        metric.update(["a", "b"], torch.tensor([[0.0, 1.0], [0.0, NAN]]))
    with pytest.raises(UserError, match="images x 2 texts"):
        metric.update(["a"], torch.zeros(1, 3))
    metric.update(["a"], torch.zeros(1, 2))
    with pytest.raises(UserError, match="1 of 2 images have no scores, the first is 'b'"):
        metric.compute()
