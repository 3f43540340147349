"""The index beside a shard: where each sample lies in its tar, so that one seek reads it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import ShardEntry


def index_path(shard: Path) -> Path:
    """Return the path of the index beside a shard."""
    return shard.with_suffix(".index.npy")


def index_rows(shard: Path, samples: dict[str, int]) -> NDArray[np.int64]:
    """Find every sample of a shard.

    Args:
        shard: A WebDataset tar.
        samples: Number of samples by key, in the order of the shard.

    Returns:
        (samples, 5) int64: image offset, image bytes, JSON offset, JSON bytes, item number.
    """
    places: dict[str, dict[bool, tuple[int, int]]] = {key: {} for key in samples}  # by key and "is JSON"
    with tarfile.open(shard) as tar:
        for member in tar:
            key, extension = member.name.rsplit(".", 1)
            places[key][extension == "json"] = (member.offset_data, member.size)
    rows = [(*places[key][False], *places[key][True], item) for key, count in samples.items() for item in range(count)]
    return np.array(rows, dtype=np.int64)


def check_shard(folder: Path, entry: ShardEntry) -> None:
    """Compare a shard and its index with the manifest's entry; raises what `ShardFolder` does."""
    path, index = folder / entry.name, index_path(folder / entry.name)
    again = "make the shards again with python -m datamodules.prepare"
    for needed in (path, index):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} not found, but {folder / MANIFEST} lists it: {again}")
    if path.stat().st_size != entry.bytes:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, {entry.bytes:,} in its manifest (truncated?): {again}"
        )
    try:
        shape = np.load(index, mmap_mode="r").shape
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{index} is no index ({error}): {again}") from error
    if shape != (entry.samples, 5):
        raise ValueError(f"{index} has shape {shape}, not {(entry.samples, 5)} as its manifest says: {again}")
