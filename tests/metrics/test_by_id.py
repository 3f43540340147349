"""Samples count once, whatever ranks judged them."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
import warnings

import pytest

from tests.metrics.ranks import PATIENCE, SAMPLES, SHARES, Results, scores_of, work
from vle_lightning.errors import UserError
from vle_lightning.metrics.consistency import Consistency
from vle_lightning.metrics.joint import JointAccuracy
from vle_lightning.metrics.per_class import ClassAccuracy


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, tuple[Results, str]]]:
    """What each of three processes computed, by the size of its world."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("forkserver")  # imports once, and no thread of the tests comes along
    context.set_forkserver_preload(["tests.metrics.ranks"])
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE.total_seconds())
        assert process.exitcode == 0
    return [pickle.loads((folder / f"rank-{rank}").read_bytes()) for rank in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_compute_what_one_does(world: int, of_ranks: list[dict[int, tuple[Results, str]]]) -> None:
    alone = scores_of(range(SAMPLES))
    assert len(alone) == 5
    for rank in range(world):
        assert of_ranks[rank][world][0] == alone


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_all_ranks_name_the_sample_that_they_judge_differently(
    world: int, of_ranks: list[dict[int, tuple[Results, str]]]
) -> None:
    for rank in range(world):
        message = of_ranks[rank][world][1]
        assert "sample 'shared' was judged twice, as (0, 0) and as (0, 1)" in message


def test_the_scores_of_one_rank_by_hand() -> None:
    scores = scores_of(SHARES[1][0])  # some samples twice
    # k % 5 > 0 fails for 0, 5 and 10; of the sentences {0, 1}, {2, 3}, ... those of 0, 5 and 10
    assert scores["Consistency"] == (9 / 12, 3 / 6)
    # k % 3 fails for 0, 3, 6, 9; k % 4 for 0, 4, 8; either for six
    assert scores["JointAccuracy"] == (8 / 12, 9 / 12, 6 / 12)
    # target k % 3, prediction k % 2: two of each combination of 0, 1, 2 and 0, 1
    assert scores["ClassAccuracy"].confusion == [[2, 2, 0], [2, 2, 0], [2, 2, 0]]
    # 1 + k % 4 annotators mean 2: 0.3, 0.6, 0.9, 1, thrice each
    assert scores["VQAAccuracy"].overall == pytest.approx(0.7)
    assert scores["VQAAccuracy"].per_answer_type == {"number": pytest.approx(0.8), "other": pytest.approx(0.6)}


def test_a_sample_judged_twice_alike_counts_once() -> None:
    metric = ClassAccuracy("xy")
    metric.update(["a", "b"], [0, 0], [0, 1])
    metric.update(["a"], [0], [0])
    assert metric.compute().accuracy == 0.5


def test_the_side_of_a_question_is_named() -> None:
    metric = JointAccuracy()
    metric.update("answer", ["q1"], [True])
    metric.update("rationale", ["q1"], [True])
    metric.update("rationale", ["q1"], [False])
    with pytest.raises(UserError, match=r"sample 'q1' \(rationale\) was judged twice, as True and as False"):
        metric.compute()


def test_more_samples_may_follow_a_score() -> None:
    metric = ClassAccuracy("xy")
    metric.update(["a"], [0], [0])
    assert metric.compute().accuracy == 1
    metric.update(["b"], [0], [1])
    assert metric.compute().accuracy == 0.5
    metric.reset()
    assert metric.compute().confusion == [[0, 0], [0, 0]]


def test_a_copy_goes_its_own_way() -> None:
    metric = ClassAccuracy("xy")
    metric.update(["a"], [0], [0])
    other = pickle.loads(pickle.dumps(copy.deepcopy(metric)))
    other.update(["b"], [0], [1])
    assert (metric.compute().accuracy, other.compute().accuracy) == (1, 0.5)


def test_a_rank_without_samples_is_no_mistake() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = Consistency().compute()
    assert all(math.isnan(score) for score in scores)


def test_a_batch_has_no_score_of_its_own() -> None:
    with pytest.raises(TypeError, match="update"):
        ClassAccuracy("xy")(["a"], [0], [0])
