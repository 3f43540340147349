"""The order of samples: complete, free of ranks, weighted, resumable."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.order import Ints, apportion
from datamodules.sampler import EvalSampler, MicroBatch, MicroBatchSampler, TrainOrder, accumulation, places

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


def epoch_of(order: TrainOrder, number: int = 0) -> list[tuple[int, int, int]]:
    """Return the samples of an epoch, in order."""
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return [place for step in steps for place in places(order.step(step))]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> tuple[tuple[int, int, int], ...]:
        return tuple(epoch_of(TrainOrder([[50] * 4], [1.0], seed, 7), epoch))

    assert order(0, 0) == order(0, 0)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    left_out = [every([[50] * 4]) - set(order(0, epoch)) for epoch in range(3)]
    assert all(len(rest) == 200 % 7 for rest in left_out)
    assert left_out[0] != left_out[1] != left_out[2]


@pytest.mark.parametrize(("weight", "epochs", "times"), [(2.0, 1, 2), (0.5, 2, 1), (1.5, 2, 3), (0.25, 4, 1)])
def test_weights_are_passes_per_epoch(weight: float, epochs: int, times: int) -> None:
    order = TrainOrder([[4, 4], [8, 8]], [weight, 1.0], 0, 1)
    counts = Counter(place for epoch in range(epochs) for place in epoch_of(order, epoch))
    first, second = every([[4, 4]]), every([[], []]) | {(1, j, row) for j in range(2) for row in range(8)}
    assert counts == {**dict.fromkeys(first, times), **dict.fromkeys(second, epochs)}


@given(st.lists(st.sampled_from([0.1, 0.3, 0.7, 1.0, 1.3, 2.5]), min_size=1, max_size=4), st.data())
def test_any_weights_hold_over_epochs(weights: list[float], data: st.DataObject) -> None:
    sizes = [[data.draw(st.integers(1, 30))] for _ in weights]
    if not sum(int(weight * size[0]) for weight, size in zip(weights, sizes, strict=True)):
        return
    order = TrainOrder(sizes, weights, 0, 1)
    counts = Counter(place for epoch in range(10) for place in epoch_of(order, epoch))
    for source, (weight, (size,)) in enumerate(zip(weights, sizes, strict=True)):
        seen = [counts[(source, 0, row)] for row in range(size)]
        dropped = 10 * (weight * size - int(weight * size))  # an epoch is a whole number of samples
        assert max(seen) <= math.ceil(10 * weight + 1e-9)
        assert sum(seen) == 10 * int(weight * size) == pytest.approx(10 * weight * size - dropped)


def test_sources_are_spread_evenly_over_the_epoch() -> None:
    sources = np.array(epoch_of(TrainOrder([[1000], [100]], [1.0, 1.0], 0, 1)))[:, 0]
    assert all(8 <= part.sum() <= 12 for part in sources.reshape(10, 110))


def test_samples_stay_near_their_shard() -> None:
    order = TrainOrder([[10] * 100], [1.0], 0, 1, window=4)
    shards = [shard for _, shard, _ in epoch_of(order)]
    open_at_once = [len(set(shards[i : i + 10])) for i in range(0, 1000, 10)]
    assert max(open_at_once) <= 8  # two blocks of four
    assert len(set(shards[:10])) >= 3
    assert shards[:40] != sorted(shards[:40])


def test_samples_of_a_shard_reach_over_its_window() -> None:
    shards = np.array([shard for _, shard, _ in epoch_of(TrainOrder([[100] * 40], [1.0], 0, 1, window=8))])
    for shard in range(40):
        blocks, counts = np.unique(np.flatnonzero(shards == shard) // 100, return_counts=True)
        assert len(blocks) == 8
        assert set(counts) <= {12, 13}


def image_of(samples: Ints) -> Ints:
    """Pairs of rows are captions of one image, whatever the source: (K, 3) -> (K,)."""
    numbers: Ints = 1000 * samples[:, 1] + samples[:, 2] // 2
    return numbers


@given(st.integers(2, 12), st.integers(1, 2), st.integers(1, 3), st.integers(0, 20))
def test_no_step_has_an_image_twice_where_that_can_be(images: int, size: int, micro_batches: int, seed: int) -> None:
    together = size * micro_batches
    if together > 2 * images:
        return
    order = TrainOrder([[2 * images]], [1.0], seed, together, images_of=image_of)
    assert set(epoch_of(order)) <= every([[2 * images]])
    if order.steps_per_epoch < 2:
        return
    for step in range(3 * order.steps_per_epoch):
        numbers = image_of(order.step(step))
        assert len(set(numbers.tolist())) == together


@given(st.integers(2, 6), st.integers(2, 4), st.integers(0, 9))
def test_what_must_share_a_step_is_in_different_micro_batches(size: int, micro_batches: int, seed: int) -> None:
    order = TrainOrder([[size * micro_batches]], [1.0], seed, size * micro_batches, images_of=image_of)
    batches = list(MicroBatchSampler(order, size))
    for batch in batches:
        numbers = image_of(np.array(batch.samples))
        assert len(set(numbers.tolist())) == size
    assert set(samples_of(batches)) == every([[size * micro_batches]])


def test_sources_that_share_images_are_kept_apart() -> None:
    order = TrainOrder([[400], [400]], [1.0, 1.0], 0, 16, images_of=image_of)
    for step in range(order.steps_per_epoch):
        assert len(set(image_of(order.step(step)).tolist())) == 16


def test_the_samples_of_a_step_do_not_depend_on_its_micro_batches() -> None:
    order = TrainOrder([[60, 40]], [1.0], 3, 12, images_of=image_of)
    cuts = [list(MicroBatchSampler(order, size)) for size in (2, 3, 12)]
    for step in range(order.steps_per_epoch):
        found = [sorted(samples_of([batch for batch in batches if batch.step == step])) for batches in cuts]
        assert found[0] == found[1] == found[2] == sorted(places(order.step(step)))


def test_samples_by_source_are_those_that_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.sampler.STRETCH", 30)
    order = TrainOrder([[40, 17], [23]], [1.0, 2.5], 1, 6)
    seen = Counter[int]()
    for step in range(3 * order.steps_per_epoch):
        assert order.samples_by_source(step) == [seen[0], seen[1]]
        seen.update(order.step(step)[:, 0].tolist())


@given(sources, st.integers(1, 5), st.integers(2, 40))
def test_stretches_make_no_difference_to_what_is_seen(sizes: list[list[int]], together: int, stretch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.sampler.STRETCH", stretch)
        sizes[0].append(5)
        order = TrainOrder(sizes, [1.0] * len(sizes), 0, together)
        found = epoch_of(order)
        assert len(found) == len(set(found)) == order.steps_per_epoch * together
        evaluated = samples_of(list(EvalSampler(sizes, together)))
        assert len(evaluated) == sum(map(sum, sizes))
        assert set(evaluated) == every(sizes)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.lists(st.integers(1, 20), max_size=12))
def test_shares_are_apportioned_to_the_sample(shares: list[int], lengths: list[int]) -> None:
    total = sum(shares)
    bounds = np.array([bound for bound in np.cumsum([0, *lengths]) if bound <= total])
    if not total:
        return
    taken = apportion(np.array(shares), bounds)
    assert (taken.sum(1) == bounds).all()
    assert (np.diff(taken, axis=0) >= 0).all()
    assert (taken <= np.array(shares)).all()
    assert (np.abs(taken - np.outer(bounds, shares) / total) < len(shares)).all()


def test_a_million_samples_are_opened_and_sought_at_once() -> None:
    start = time.perf_counter()
    sizes = [[5000] * 200]
    order = TrainOrder(sizes, [1.0], 0, 2048, images_of=image_of)
    sampler = MicroBatchSampler(order, 64)
    sampler.start_step = order.steps_per_epoch // 2
    first = next(iter(sampler))
    assert first.step == order.steps_per_epoch // 2
    assert time.perf_counter() - start < 2


def test_memory_grows_with_shards_not_with_samples() -> None:
    def peak(samples: int) -> int:
        tracemalloc.start()
        order = TrainOrder([[samples] * 40], [1.0], 0, 64)
        sampler = MicroBatchSampler(order, 64)
        for start in (0, order.steps_per_epoch // 2):
            sampler.start_step = start
            next(iter(sampler))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak(2_500), peak(10_000)  # 100,000 and 400,000 samples; a stretch is 65,536
    assert many < 2 * few


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
    with pytest.raises(ValueError, match="nearest possible: data.global_batch_size 24, or devices 2 or 5$"):
        accumulation(10, 8, 3)
    with pytest.raises(ValueError, match="not a multiple of data.batch_size 3"):
        MicroBatchSampler(TrainOrder([[40]], [1.0], 0, 8), 3)


@pytest.mark.parametrize(("devices", "size"), [(1, 32), (2, 32), (4, 16), (32, 2), (64, 1)])
def test_more_devices_than_a_step_has_batches_get_smaller_ones(devices: int, size: int) -> None:
    order = TrainOrder([[640]], [1.0], 0, 64)
    parts = [list(MicroBatchSampler(order, 32, rank, devices)) for rank in range(devices)]
    first = [batch for part in parts for batch in part if batch.step == 0]
    assert {len(batch.samples) for batch in first} == {size}
    assert len({sample for batch in first for sample in batch.samples}) == 64


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="leave the source out"):
        TrainOrder([[4], [4]], [1.0, 0.0], 0, 2)


@given(st.integers(2, 20), st.integers(1, 5), st.integers(1, 3))
def test_evaluation_keeps_an_image_out_of_its_micro_batch_where_it_can(images: int, size: int, world: int) -> None:
    samplers = [EvalSampler([[2 * images]], size, rank, world, images_of=image_of) for rank in range(world)]
    batches = [batch for sampler in samplers for batch in sampler if batch.valid]
    assert sorted(samples_of(batches)) == sorted(every([[2 * images]]))
    whole = [batch for batch in batches if batch.valid == size]
    if len(whole) > 1:
        assert all(len(set(image_of(np.array(batch.samples)).tolist())) == size for batch in whole)
