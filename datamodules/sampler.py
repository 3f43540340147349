"""Which samples make up which micro-batch, on any number of ranks, and where a run resumes.

The order is a pure function of seed and epoch; it is cut into global batches of N micro-batches, and number
k of a step goes to rank k mod W. Ranks and workers change nothing: a run may resume on other numbers of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Ints = NDArray[np.int64]

PASS, MIX, EVAL = 1, 2, 3  # first numbers of the seeds, so that no two draws share a generator


@dataclass(frozen=True)
class MicroBatch:
    """Which samples to read for one micro-batch."""

    step: int
    number: int
    samples: tuple[tuple[int, int, int], ...]  # source, shard, row
    valid: int  # rows after the first ``valid`` are fillers


class Places:
    """Turns running numbers over all samples into (source, shard, row)."""

    def __init__(self, sources: Sequence[Sequence[int]]) -> None:
        """Take the shard sizes of each source."""
        sizes = [size for shards in sources for size in shards]
        self.starts = np.cumsum([0, *sizes])
        self.shards = np.array([(i, j) for i, shards in enumerate(sources) for j in range(len(shards))], dtype=np.int64)
        self.sources = np.cumsum([0, *(sum(shards) for shards in sources)])  # first number of each source, then the end

    def find(self, numbers: Ints) -> tuple[tuple[int, int, int], ...]:
        """Return where samples lie; numbers (K,)."""
        shard = np.searchsorted(self.starts, numbers, side="right") - 1
        rows = np.column_stack([self.shards[shard], numbers - self.starts[shard]])
        return tuple(map(tuple, rows.tolist()))


class TrainOrder:
    """The training order: shards shuffled, samples shuffled within sliding groups of them, sources mixed."""

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        weights: Sequence[float],
        seed: int,
        global_batch_size: int,
        shard_group: int = 16,
    ) -> None:
        """Plan the epochs.

        Args:
            sources: shard sizes of each source, in samples.
            weights: passes over each source per epoch; 0.5 gives one half now, the other half in the next.
            seed: of the run.
            global_batch_size: samples per optimiser step; an epoch leaves out what does not fill a step.
            shard_group: how many shards are open at a time.

        Raises:
            ValueError: an epoch has less than one step, or a weight is not positive.
        """
        if min(weights) <= 0:
            raise ValueError(f"data.sources: weights are {list(weights)}; each must be above 0 (leave the source out)")
        self.sources, self.seed, self.shard_group = [tuple(shards) for shards in sources], seed, shard_group
        self.global_batch_size = global_batch_size
        self.places = Places(sources)
        self.shares = [round(weight * sum(shards)) for weight, shards in zip(weights, sources, strict=True)]
        self.steps_per_epoch = sum(self.shares) // global_batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"data.global_batch_size is {global_batch_size}, but an epoch of data.sources has "
                f"{sum(self.shares)} samples; set it to at most {sum(self.shares)}"
            )

    def epoch(self, number: int) -> Ints:
        """Return the running numbers of an epoch's samples, (steps * global batch,)."""
        parts = [self._share(source, number) for source in range(len(self.sources))]
        numbers = np.concatenate(parts)
        if len(parts) > 1:
            rng = np.random.default_rng((MIX, self.seed, number))
            # each source keeps its own order and is spread evenly over the epoch
            keys = [(np.arange(len(part)) + rng.random(len(part))) / max(len(part), 1) for part in parts]
            numbers = numbers[np.argsort(np.concatenate(keys), kind="stable")]
        return numbers[: self.steps_per_epoch * self.global_batch_size]

    def _share(self, source: int, epoch: int) -> Ints:
        """Cut an epoch's share out of the endless row of passes over a source."""
        share, size = self.shares[source], sum(self.sources[source])
        first, end = epoch * share, (epoch + 1) * share
        if first == end:
            return np.empty(0, dtype=np.int64)
        passes = range(first // size, -(-end // size))
        row = np.concatenate([self._pass(source, number) for number in passes])
        return row[first - passes.start * size : end - passes.start * size]

    def _pass(self, source: int, number: int) -> Ints:
        """Shuffle one pass: a sample moves at most ``shard_group`` shards from the place of its own."""
        sizes = self.sources[source]
        rng = np.random.default_rng((PASS, self.seed, source, number))
        place = rng.permutation(len(sizes)).repeat(sizes)
        order = np.argsort(place + self.shard_group * rng.random(len(place)), kind="stable")
        numbers: Ints = order + self.places.sources[source]
        return numbers


def accumulation(global_batch_size: int, batch_size: int, devices: int) -> int:
    """Return how many micro-batches each device goes through per optimiser step.

    Raises:
        ValueError: the global batch is no multiple; names the nearest possible sizes.
    """
    together = batch_size * devices
    if global_batch_size % together == 0:
        return global_batch_size // together
    below = global_batch_size // together * together
    told = "data.global_batch_size " + " or ".join(str(size) for size in (below, below + together) if size)
    if global_batch_size % devices == 0:
        share = global_batch_size // devices
        possible = [size for size in range(1, share + 1) if share % size == 0]
        lower = [size for size in possible if size < batch_size][-1:]
        nearest = lower + [size for size in possible if size > batch_size][:1]
        told += ", or data.batch_size " + " or ".join(map(str, nearest))
    raise ValueError(
        f"data.global_batch_size {global_batch_size} is no multiple of data.batch_size {batch_size} "
        f"x {devices} device(s); nearest possible: {told}"
    )


class MicroBatchSampler(Sampler[MicroBatch]):
    """One rank's micro-batches: numbers rank, rank + W, ... of each step, up to the end of the epoch."""

    def __init__(self, order: TrainOrder, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.order, self.batch_size, self.rank, self.world_size = order, batch_size, rank, world_size
        self.per_step = accumulation(order.global_batch_size, batch_size, world_size)  # of this rank
        self.micro_batches = self.per_step * world_size  # of a step, over all ranks
        self.start_step = 0  # optimiser steps of the run that are finished: iterating starts behind them

    def __len__(self) -> int:
        """Return the number of this rank's micro-batches in a whole epoch."""
        return self.order.steps_per_epoch * self.per_step

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield the micro-batches from ``start_step`` to the end of its epoch."""
        epoch, first = divmod(self.start_step, self.order.steps_per_epoch)
        steps = self.order.epoch(epoch).reshape(self.order.steps_per_epoch, self.micro_batches, self.batch_size)
        for i in range(first, len(steps)):
            for number in range(self.rank, self.micro_batches, self.world_size):
                samples = self.order.places.find(steps[i, number])
                yield MicroBatch(epoch * len(steps) + i, number, samples, len(samples))


class EvalSampler(Sampler[MicroBatch]):
    """Every sample exactly once over all ranks, as many micro-batches on each; the last ones may be short.

    The order is shuffled, the same in every run: ``limit`` takes a fair part and a micro-batch mixes images.
    A rank that has one micro-batch less than others repeats the first one, all of it marked as filler.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.places, self.batch_size, self.rank, self.world_size = (
            Places(sources),
            batch_size,
            rank,
            world_size,
        )
        size = int(self.places.starts[-1])
        self.numbers = np.random.default_rng(EVAL).permutation(size)[:limit]
        if not len(self.numbers):
            raise ValueError("nothing to evaluate: the split has no samples, or data.limit_val is 0")
        self.batches = -(-len(self.numbers) // batch_size)  # over all ranks, without fillers

    def __len__(self) -> int:
        """Return the number of each rank's micro-batches."""
        return -(-self.batches // self.world_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches; ``number`` runs over all ranks, ``step`` is 0."""
        for number in range(self.rank, len(self) * self.world_size, self.world_size):
            first = number * self.batch_size if number < self.batches else 0
            samples = self.places.find(self.numbers[first : first + self.batch_size])
            yield MicroBatch(0, number, samples, len(samples) if number < self.batches else 0)
