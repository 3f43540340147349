"""In which order samples are read: a pure function of seed and epoch, computed a stretch at a time.

A pass over a source shuffles its shards and puts them on a ring. Each shard's samples are shuffled and cut
into as many slices as the window has shards; slice g of the shard at place p is read in block p + g, and a
block is shuffled as a whole. So the samples of a shard are spread over a window of shards, few shards are
open at a time, and any stretch of a pass is found by arithmetic on shard sizes: neither starting in the
middle nor memory depends on the number of samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
ImagesOf = Callable[[Ints], Ints]  # places (K, 3) -> a number (K,) for the image of each

SHARDS, ROWS, BLOCK, MIX, APART, DEAL = range(1, 7)  # first numbers of the seeds: no two draws share a generator
STRETCH = 65_536  # samples that are put in order at a time
TRIES = 16  # partners that a sample may try to change places with


class PassOrder:
    """The endless row of passes over one source."""

    def __init__(self, sizes: Sequence[int], seed: int, source: int, window: int) -> None:
        """Plan the passes.

        Args:
            sizes: samples of each shard.
            seed: of the run.
            source: number of the source, so that equal sources are not read in step.
            window: shards that are open at a time.
        """
        self.sizes, self.key, self.window = np.array(sizes, dtype=np.int64), (seed, source), min(window, len(sizes))
        self.size = int(self.sizes.sum())
        self._plan: tuple[int, Ints, Ints] | None = None  # pass, its shards in order, first position of each block

    def take(self, first: int, end: int) -> Ints:
        """Return shard and row, (end - first, 2), of the positions ``first`` to ``end`` of the row."""
        parts = [np.empty((0, 2), dtype=np.int64)]
        while first < end:
            number, start = divmod(first, self.size)
            stop = min(self.size, start + end - first)
            parts.append(self._part(number, start, stop))
            first += stop - start
        return np.concatenate(parts)

    def _part(self, number: int, first: int, end: int) -> Ints:
        """Cut a stretch that is not empty out of one pass."""
        shards, starts = self._plan_of(number)
        begin, stop = np.searchsorted(starts, [first, end - 1], side="right")
        blocks = np.concatenate([self._block(number, shards, block) for block in range(begin - 1, stop)])
        return blocks[first - starts[begin - 1] : end - starts[begin - 1]]

    def _plan_of(self, number: int) -> tuple[Ints, Ints]:
        if self._plan is None or self._plan[0] != number:
            shards = np.random.default_rng((SHARDS, *self.key, number)).permutation(len(self.sizes))
            cuts = self.sizes[shards, None] * np.arange(self.window + 1) // self.window  # (shards, window + 1)
            slices = np.diff(cuts)
            blocks = sum(np.roll(slices[:, g], g) for g in range(self.window))
            self._plan = number, shards, np.concatenate([[0], np.cumsum(blocks)])
        return self._plan[1:]

    def _block(self, number: int, shards: Ints, block: int) -> Ints:
        """Return shard and row of a block's samples: slice g of the shard that lies g places before it."""
        parts = []
        for g in range(self.window):
            shard = int(shards[block - g])  # negative numbers go round the ring
            size = int(self.sizes[shard])
            rows = np.random.default_rng((ROWS, *self.key, number, shard)).permutation(size)
            rows = rows[size * g // self.window : size * (g + 1) // self.window]
            parts.append(np.column_stack([np.full_like(rows, shard), rows]))
        samples = np.concatenate(parts)
        rng = np.random.default_rng((BLOCK, *self.key, number, block))
        shuffled: Ints = samples[rng.permutation(len(samples))]
        return shuffled


class MixedOrder:
    """Epochs over several sources, each spread evenly, in stretches that stand for themselves."""

    def __init__(
        self, sources: Sequence[Sequence[int]], weights: Sequence[float], seed: int, bounds: Ints, window: int
    ) -> None:
        """Plan the epochs.

        Args:
            sources: shard sizes of each source, in samples.
            weights: passes over each source per epoch; 0.5 gives one half now, the other half in the next.
            seed: of the run.
            bounds: (S + 1,) positions between the stretches of an epoch; the first is 0, the last its length.
            window: shards of a source that are open at a time.
        """
        self.rows = [PassOrder(sizes, seed, source, window) for source, sizes in enumerate(sources)]
        self.passes = [weight * row.size for weight, row in zip(weights, self.rows, strict=True)]
        self.seed, self.bounds = seed, bounds
        self.taken = apportion(np.array([int(share) for share in self.passes]), bounds)

    def stretch(self, epoch: int, number: int) -> Ints:
        """Return source, shard and row, (K, 3), of a stretch of an epoch."""
        parts = []
        for source, row in enumerate(self.rows):
            start = round(epoch * self.passes[source])
            places = row.take(*(start + int(taken) for taken in self.taken[number : number + 2, source]))
            parts.append(np.column_stack([np.full(len(places), source), places]))
        rng = np.random.default_rng((MIX, self.seed, epoch, number))
        # each source keeps its own order and is spread evenly
        keys = [(np.arange(len(part)) + rng.random(len(part))) / max(1, len(part)) for part in parts]
        mixed: Ints = np.concatenate(parts)[np.argsort(np.concatenate(keys), kind="stable")]
        return mixed


def apportion(shares: Ints, bounds: Ints) -> Ints:
    """Say how many samples of each source stand before each bound, in proportion to its share.

    Args:
        shares: (N,) samples of each source in an epoch.
        bounds: (S + 1,) positions, at most the sum of the shares.

    Returns:
        (S + 1, N), rising along S, each row with the sum ``bounds[s]``, nowhere a whole sample off.
    """
    taken = np.zeros((len(bounds), len(shares)), dtype=np.int64)
    for i in range(1, len(bounds)):
        wanted = shares * (bounds[i] / shares.sum()) - taken[i - 1]
        given = np.floor(wanted.clip(0)).astype(np.int64)
        missing = int(bounds[i] - bounds[i - 1] - given.sum())
        for _ in range(abs(missing)):
            behind = (wanted - given) * np.sign(missing)
            given[np.argmax(np.where((missing > 0) | (given > 0), behind, -np.inf))] += np.sign(missing)
        taken[i] = taken[i - 1] + given
    return taken


def apart(images: Ints, groups: int, rng: np.random.Generator) -> Ints:
    """Reorder samples so that no group holds two of one image, where that can be.

    Samples that stand well stay where they are; the others change places with some of another group. If that
    does not do, all are dealt out anew, image by image: then no group has more of an image than it must.

    Args:
        images: (K,) a number for the image of each sample.
        groups: how many runs of K / groups samples there are.
        rng: draws the partners.

    Returns:
        (K,) the numbers of the samples in their new order.
    """
    order = np.arange(len(images))
    if groups == 1 or not len(surplus(images, groups)):
        return order
    if not change_places(images, order, groups, rng):
        _, number = np.unique(images, return_inverse=True)
        dealt = np.lexsort((rng.random(len(images)), rng.permutation(number.max() + 1)[number]))
        order = dealt.reshape(-1, groups).T.reshape(-1)
    return order


def surplus(images: Ints, groups: int) -> Ints:
    """Return the positions of samples whose image stands in their group before them."""
    group = np.repeat(np.arange(groups), len(images) // groups)
    by_group = np.lexsort((images, group))
    again = (np.diff(images[by_group]) == 0) & (np.diff(group[by_group]) == 0)
    return np.sort(by_group[1:][again])


def change_places(images: Ints, order: Ints, groups: int, rng: np.random.Generator) -> bool:
    """Exchange each surplus sample, in place, with one that suits both groups; say whether all found one."""
    size = len(images) // groups
    held = [Counter(row) for row in images.reshape(groups, size).tolist()]
    for position in surplus(images, groups).tolist():
        mine = held[position // size]
        image = int(images[order[position]])
        for other in rng.integers(len(images), size=TRIES).tolist():
            theirs, swapped = held[other // size], int(images[order[other]])
            if not theirs[image] and not mine[swapped]:
                mine[image] -= 1
                theirs[swapped] -= 1
                mine[swapped] = theirs[image] = 1
                order[[position, other]] = order[[other, position]]
                break
        else:
            return False
    return True
