"""The order of samples: complete, free of ranks, weighted, resumable."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sampler import EvalSampler, MicroBatch, MicroBatchSampler, TrainOrder, accumulation

shard_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
sources = st.lists(shard_sizes, min_size=1, max_size=3)


def every(sizes: list[list[int]]) -> set[tuple[int, int, int]]:
    return {(i, j, row) for i, shards in enumerate(sizes) for j, size in enumerate(shards) for row in range(size)}


def samples_of(batches: list[MicroBatch]) -> list[tuple[int, int, int]]:
    return list(chain.from_iterable(batch.samples[: batch.valid] for batch in batches))


@given(sources, st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_each_sample_once_up_to_the_remainder(
    sizes: list[list[int]], batch_size: int, micro_batches: int, seed: int, epoch: int
) -> None:
    total, together = sum(map(sum, sizes)), batch_size * micro_batches
    if total < together:
        with pytest.raises(ValueError, match=rf"set it to at most {total}"):
            TrainOrder(sizes, [1.0] * len(sizes), seed, together)
        return
    sampler = MicroBatchSampler(TrainOrder(sizes, [1.0] * len(sizes), seed, together), batch_size)
    sampler.start_step = epoch * sampler.order.steps_per_epoch
    batches = list(sampler)
    found = samples_of(batches)
    assert len(batches) == len(sampler) == total // together * micro_batches
    assert len(found) == len(set(found)) == total // together * together
    assert set(found) <= every(sizes)
    expected = [(sampler.start_step + i // micro_batches, i % micro_batches) for i in range(len(batches))]
    assert [(batch.step, batch.number) for batch in batches] == expected


@given(sources, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.integers(0, 5))
def test_ranks_share_out_the_order_of_one(sizes: list[list[int]], world: int, per_step: int, seed: int) -> None:
    sizes[0].append(12)  # enough for a step
    order = TrainOrder(sizes, [1.0] * len(sizes), seed, 2 * world * per_step)
    alone = list(MicroBatchSampler(order, 2))
    parts = [list(MicroBatchSampler(order, 2, rank, world)) for rank in range(world)]
    assert list(chain.from_iterable(zip(*parts, strict=True))) == alone
    assert all(batch.number % world == rank for rank, part in enumerate(parts) for batch in part)


@given(sources, st.integers(0, 40))
def test_any_step_is_a_place_to_start(sizes: list[list[int]], start: int) -> None:
    sizes[0].append(4)
    order = TrainOrder(sizes, [1.0] * len(sizes), 0, 4)
    whole: list[MicroBatch] = []
    sampler = MicroBatchSampler(order, 2)
    for epoch in range(start // order.steps_per_epoch + 1):
        sampler.start_step = epoch * order.steps_per_epoch
        whole += sampler
    sampler.start_step = start
    assert list(sampler) == whole[2 * start :]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        numbers: list[int] = TrainOrder([[50] * 4], [1.0], seed, 7).epoch(epoch).tolist()
        return numbers

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    left_out = [set(range(200)) - set(order(0, epoch)) for epoch in range(3)]
    assert left_out[0] != left_out[1] != left_out[2]


@pytest.mark.parametrize(("weight", "epochs", "times"), [(2.0, 1, 2), (0.5, 2, 1), (1.5, 2, 3), (0.25, 4, 1)])
def test_weights_are_passes_per_epoch(weight: float, epochs: int, times: int) -> None:
    order = TrainOrder([[4, 4], [8, 8]], [weight, 1.0], 0, 1)
    numbers = [number for epoch in range(epochs) for number in order.epoch(epoch).tolist()]
    counts = Counter(numbers)
    assert {number: counts[number] for number in range(8)} == dict.fromkeys(range(8), times)
    assert {number: counts[number] for number in range(8, 24)} == dict.fromkeys(range(8, 24), epochs)


def test_sources_are_spread_evenly_over_the_epoch() -> None:
    numbers = TrainOrder([[1000], [100]], [1.0, 1.0], 0, 1).epoch(0)
    assert all(8 <= (part >= 1000).sum() <= 12 for part in numbers.reshape(10, 110))


def test_samples_stay_near_their_shard() -> None:
    order = TrainOrder([[10] * 100], [1.0], 0, 1, shard_group=4)
    shards = [shard for _, shard, _ in order.places.find(order.epoch(0))]
    open_at_once = [len(set(shards[i : i + 10])) for i in range(0, 1000, 10)]
    assert max(open_at_once) <= 6  # a group and those that begin and end in it
    assert shards[:40] != sorted(shards[:40])


@given(shard_sizes, st.integers(1, 7), st.integers(1, 4), st.none() | st.integers(1, 30))
def test_evaluation_has_each_sample_once_over_all_ranks(
    sizes: list[int], batch_size: int, world: int, limit: int | None
) -> None:
    samplers = [EvalSampler([sizes], batch_size, rank, world, limit) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(sampler) for sampler in samplers} == {len(parts[0])}
    found = samples_of(list(chain.from_iterable(parts)))
    assert len(found) == len(set(found)) == min(sum(sizes), limit or sum(sizes))
    batches = list(chain.from_iterable(zip(*parts, strict=True)))
    assert [batch.number for batch in batches] == list(range(len(batches)))
    assert all(batch.samples == batches[0].samples for batch in batches if not batch.valid)
    alone = list(EvalSampler([sizes], batch_size, limit=limit))
    assert batches[: len(alone)] == alone


def test_impossible_batch_sizes_name_the_nearest() -> None:
    assert accumulation(64, 8, 2) == 4
    with pytest.raises(ValueError, match="global_batch_size 96 or 144, or data.batch_size 10 or 25$"):
        accumulation(100, 24, 2)
    with pytest.raises(ValueError, match="nearest possible: data.global_batch_size 64, or data.batch_size 16$"):
        accumulation(32, 32, 2)
    with pytest.raises(ValueError, match="data.global_batch_size 24$"):
        accumulation(10, 8, 3)
    with pytest.raises(ValueError, match="no multiple of data.batch_size 3"):
        MicroBatchSampler(TrainOrder([[40]], [1.0], 0, 8), 3)


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="leave the source out"):
        TrainOrder([[4], [4]], [1.0, 0.0], 0, 2)
