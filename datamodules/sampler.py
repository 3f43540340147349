"""Which samples make up which micro-batch, on any number of ranks, and where a run resumes.

The order (see order.py) is cut into global batches of N micro-batches, and number k of a step goes to rank
k mod W. Ranks and workers change nothing: a run may resume on other numbers of both, and with other
micro-batches, since the samples of a step do not depend on how they are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from datamodules.order import APART, DEAL, STRETCH, ImagesOf, Ints, MixedOrder, apart

WINDOW = 16  # shards of a source that are open at a time
EVAL = 0  # the seed of all evaluations: each sees the same samples, whatever the run's seed


@dataclass(frozen=True)
class MicroBatch:
    """Which samples to read for one micro-batch."""

    step: int
    number: int
    samples: tuple[tuple[int, int, int], ...]  # source, shard, row
    valid: int  # rows after the first ``valid`` are fillers


class TrainOrder:
    """The global batches of a run."""

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        weights: Sequence[float],
        seed: int,
        global_batch_size: int,
        window: int = WINDOW,
        images_of: ImagesOf | None = None,
    ) -> None:
        """Plan the epochs.

        Args:
            sources: shard sizes of each source, in samples.
            weights: passes over each source per epoch; 0.5 gives one half now, the other half in the next.
            seed: of the run.
            global_batch_size: samples per optimiser step; an epoch leaves out what does not fill a step.
            window: shards of a source that are open at a time.
            images_of: tells the images of samples, so that none comes twice in a step; None: all differ.

        Raises:
            ValueError: an epoch has less than one step, or a weight is not positive.
        """
        if min(weights) <= 0:
            raise ValueError(f"data.sources: weights are {list(weights)}; each must be above 0 (leave the source out)")
        total = sum(int(weight * sum(shards)) for weight, shards in zip(weights, sources, strict=True))
        self.seed, self.global_batch_size, self.images_of = seed, global_batch_size, images_of
        self.steps_per_epoch = total // global_batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"data.global_batch_size is {global_batch_size}, but an epoch of data.sources has "
                f"{total} samples; set it to at most {total}"
            )
        self.steps_per_stretch = max(1, STRETCH // global_batch_size)
        steps = np.append(np.arange(0, self.steps_per_epoch, self.steps_per_stretch), self.steps_per_epoch)
        self._mix = MixedOrder(sources, weights, seed, steps * global_batch_size, window)
        self._stretch: tuple[tuple[int, int], Ints] | None = None

    def step(self, number: int) -> Ints:
        """Return source, shard and row, (global batch, 3), of an optimiser step's samples.

        Steps count from 0 over the whole run. In a row they cost little: a stretch is put in order at a time.
        """
        epoch, step = divmod(number, self.steps_per_epoch)
        which = epoch, step // self.steps_per_stretch
        if self._stretch is None or self._stretch[0] != which:
            self._stretch = which, self._put_in_order(*which)
        samples: Ints = self._stretch[1][step % self.steps_per_stretch]
        return samples

    def images(self, samples: Ints) -> Ints:
        """Return a number (K,) for the image of each sample (K, 3)."""
        return np.arange(len(samples)) if self.images_of is None else self.images_of(samples)

    def samples_by_source(self, steps: int) -> list[int]:
        """Return how many samples of each source the first ``steps`` steps of the run have."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        stretch, partial = divmod(rest, self.steps_per_stretch)
        counts = epochs * self._mix.taken[-1] + self._mix.taken[stretch]
        if partial:
            self.step(steps - 1)
            assert self._stretch is not None
            sources = self._stretch[1][:partial, :, 0]
            counts = counts + np.bincount(sources.reshape(-1), minlength=len(counts))
        seen: list[int] = counts.tolist()
        return seen

    def _put_in_order(self, epoch: int, number: int) -> Ints:
        samples = self._mix.stretch(epoch, number)
        steps = len(samples) // self.global_batch_size
        rng = np.random.default_rng((APART, self.seed, epoch, number))
        return samples[apart(self.images(samples), steps, rng)].reshape(steps, self.global_batch_size, 3)


def accumulation(global_batch_size: int, batch_size: int, devices: int) -> int:
    """Return how many micro-batches each device goes through per optimiser step.

    Where the devices are so many that a step has fewer samples for each than ``batch_size``, its micro-batch is these.

    Raises:
        ValueError: the global batch is not a multiple; names the nearest possible sizes.
    """
    together = micro_batch_size(global_batch_size, batch_size, devices) * devices
    if global_batch_size % together == 0:
        return global_batch_size // together
    together = batch_size * devices
    below = global_batch_size // together * together
    told = "data.global_batch_size " + " or ".join(str(size) for size in (below, below + together) if size)
    if global_batch_size % devices == 0:
        share = global_batch_size // devices
        possible = [size for size in range(1, share + 1) if share % size == 0]
        lower = [size for size in possible if size < batch_size][-1:]
        nearest = lower + [size for size in possible if size > batch_size][:1]
        told += ", or data.batch_size " + " or ".join(map(str, nearest))
    else:
        fitting = [count for count in range(1, global_batch_size + 1) if global_batch_size % count == 0]
        nearest = [count for count in fitting if count < devices][-1:] + [c for c in fitting if c > devices][:1]
        told += ", or devices " + " or ".join(map(str, nearest))
    raise ValueError(
        f"data.global_batch_size {global_batch_size} is not a multiple of data.batch_size {batch_size} "
        f"x {devices} device(s); nearest possible: {told}"
    )


def micro_batch_size(global_batch_size: int, batch_size: int, devices: int) -> int:
    """Return how many samples a micro-batch has: ``batch_size``, or all that a step has for a device."""
    share, rest = divmod(global_batch_size, devices)
    return batch_size if rest else min(batch_size, share)


class MicroBatchSampler(Sampler[MicroBatch]):
    """One rank's micro-batches: numbers rank, rank + W, ... of each step, up to the end of the epoch."""

    def __init__(self, order: TrainOrder, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.order, self.rank, self.world_size = order, rank, world_size
        self.batch_size = micro_batch_size(order.global_batch_size, batch_size, world_size)
        self.per_step = accumulation(order.global_batch_size, batch_size, world_size)  # of this rank
        self.micro_batches = self.per_step * world_size  # of a step, over all ranks
        self.start_step = 0  # optimiser steps of the run that are finished: iterating starts behind them

    def __len__(self) -> int:
        """Return the number of this rank's micro-batches in a whole epoch."""
        return self.order.steps_per_epoch * self.per_step

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield the micro-batches from ``start_step`` to the end of its epoch."""
        end = (self.start_step // self.order.steps_per_epoch + 1) * self.order.steps_per_epoch
        for step in range(self.start_step, end):
            samples = self.order.step(step)
            rng = np.random.default_rng((DEAL, self.order.seed, step))
            samples = samples[apart(self.order.images(samples), self.micro_batches, rng)]
            for number in range(self.rank, self.micro_batches, self.world_size):
                mine = places(samples[number * self.batch_size : (number + 1) * self.batch_size])
                yield MicroBatch(step, number, mine, len(mine))


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
        images_of: ImagesOf | None = None,
    ) -> None:
        self.images_of = images_of
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        size = sum(map(sum, sources))
        self.size = size if limit is None else min(limit, size)
        if not self.size:
            raise ValueError("nothing to evaluate: the split has no samples, or data.limit_val is 0")
        self.batches = -(-self.size // batch_size)  # over all ranks, without fillers
        self.batches_per_stretch = max(1, STRETCH // batch_size)
        bounds = np.append(np.arange(0, self.size, self.batches_per_stretch * batch_size), self.size)
        self._mix = MixedOrder(sources, [1.0] * len(sources), EVAL, bounds, WINDOW)

    def __len__(self) -> int:
        """Return the number of each rank's micro-batches."""
        return -(-self.batches // self.world_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches; ``number`` runs over all ranks, ``step`` is 0."""
        number = self.rank
        for i, start in enumerate(range(0, self.batches, self.batches_per_stretch)):
            stretch = self._stretch(i)
            while number < min(self.batches, start + self.batches_per_stretch):
                first = (number - start) * self.batch_size
                samples = places(stretch[first : first + self.batch_size])
                yield MicroBatch(0, number, samples, len(samples))
                number += self.world_size
        if number < len(self) * self.world_size:
            yield MicroBatch(0, number, places(self._stretch(0)[: self.batch_size]), 0)

    def _stretch(self, number: int) -> Ints:
        """Return a stretch of whole micro-batches without doubles of an image, and what is left behind them."""
        samples = self._mix.stretch(0, number)
        batches = len(samples) // self.batch_size
        if self.images_of is None or not batches:
            return samples
        whole = samples[: batches * self.batch_size]
        rng = np.random.default_rng((APART, EVAL, number))
        return np.concatenate([whole[apart(self.images_of(whole), batches, rng)], samples[len(whole) :]])


def places(samples: Ints) -> tuple[tuple[int, int, int], ...]:
    """Return samples (K, 3) as plain numbers."""
    return tuple(map(tuple, samples.tolist()))
