"""What `make bench` compares of retrieval does the same work."""

from __future__ import annotations

import pytest
import torch

from tests.factories import dual
from vle_lightning.bench.command import BENCHES
from vle_lightning.bench.retrieval import (
    LONGEST,
    SHORTEST,
    bench_retrieval,
    build,
    compare_scores,
    full_passes,
    once,
    time_passes,
)


def test_both_ways_give_the_same_scores_and_encode_as_they_say() -> None:
    task, batch = build("tiny", images=4, captions=2)
    images: list[int] = []
    dual(task.model).image.register_forward_hook(lambda module, inputs, output: images.append(len(inputs[0])))
    with torch.inference_mode():
        scores = once(task, batch, pairs=8)
        assert sum(images) == 4
        torch.testing.assert_close(scores, full_passes(task, batch, pairs=8), rtol=0, atol=1e-5)
    assert sum(images) == 4 + 4 * 8
    assert SHORTEST <= batch.attention_mask.sum(1).min() <= batch.input_ids.shape[1] <= LONGEST


def test_the_comparison_at_small_width() -> None:
    results = compare_scores("tiny", images=10, captions=5, top_k=4, repeats=1)
    assert results["retrieval_max_difference"] < 1e-5
    assert results["shortlist_of_all_max_difference"] == 0
    assert 4 / 50 <= results["shortlist_pairs"] <= 9 / 50  # 4 texts of each image, 1 image of each text
    assert results["shortlist_speedup"] == results["exact_seconds"] / results["shortlist_seconds"]
    assert 0 <= results["shortlist_r@1"] <= 1
    assert 0 <= results["exact_r@1"] <= 1


def test_the_ratio_is_full_passes_over_once() -> None:
    results = time_passes("tiny", images=2, captions=2, repeats=1)
    assert results["retrieval_speedup"] == pytest.approx(
        results["retrieval_seconds/full_passes"] / results["retrieval_seconds/once"]
    )


def test_the_bench_is_one_of_all() -> None:
    assert BENCHES["retrieval"] is bench_retrieval
