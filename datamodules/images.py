"""Shard folders read by images: one sample an image, not one a text, question or statement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.index import Column
from datamodules.shards import RawSample, ShardFolder


class ImagesOfFolder(ShardFolder):
    """A shard folder with a row for each image: the one that holds its first text, question or other sample."""

    def __init__(self, folder: ShardFolder) -> None:
        """Find the images of an opened folder in its indexes; those of remote shards are fetched.

        Raises:
            StoreError: a remote index cannot be fetched.
        """
        super().__init__(folder.store, check=False)
        shards = range(len(self.manifest.shards))
        self.first: list[NDArray[np.int64]] = [
            np.flatnonzero(self._rows(shard)[:, Column.ITEM] == 0) for shard in shards
        ]
        self.shard_sizes = tuple(map(len, self.first))

    def read(self, shard: int, row: int) -> RawSample:
        """Read the first sample of image number ``row`` of a shard; its record holds all of them."""
        return super().read(shard, int(self.first[shard][row]))

    def images(self, shard: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a number (K,) for each of the images ``rows`` (K,) of a shard."""
        return super().images(shard, self.first[shard][rows])

    def numbers(self) -> NDArray[np.int64]:
        """Return the numbers (I,) of all images, shard by shard."""
        return np.concatenate([self.images(shard, np.arange(size)) for shard, size in enumerate(self.shard_sizes)])

    def locate(self, number: int) -> RawSample:
        """Read the image that stands at a place of ``numbers``."""
        ends = np.cumsum(self.shard_sizes)
        shard = int(np.searchsorted(ends, number, side="right"))
        return self.read(shard, number - int(ends[shard]) + self.shard_sizes[shard])


def by_images(folder: ShardFolder) -> ShardFolder:
    """Return an opened folder with one sample an image: itself, where it has no more.

    Raises:
        ValueError: its records have no images.
        StoreError: a remote index cannot be fetched.
    """
    if folder.kind == "passages":
        raise ValueError(f"data.sources: {folder.name} holds texts without images (passages)")
    return folder if folder.manifest.images == folder.manifest.samples else ImagesOfFolder(folder)
