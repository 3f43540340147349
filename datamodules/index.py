"""The index beside a shard: where each sample lies in its tar, so that one seek reads it.

``NAME.index.npy`` is an int64 array (samples, 8), one row per *sample*, memory-mapped by its readers.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import ShardEntry

TEXT_EXTENSIONS = ("json", "txt")
RIGHT = "right"  # KEY.right.jpg is the second image of a pair


class Column(IntEnum):
    """What the numbers of a row say."""

    IMAGE_OFFSET = 0
    IMAGE_BYTES = 1
    RIGHT_OFFSET = 2  # of the second image
    RIGHT_BYTES = 3  # 0: there is none
    TEXT_OFFSET = 4
    TEXT_BYTES = 5
    ITEM = 6  # number of the sample in its record
    IMAGE = 7  # `image_number` of its image: equal for the samples of one image, in any source


class RecordEntry(NamedTuple):
    """What the index says of a record beside its place."""

    samples: int
    image_id: str


def index_path(shard: Path) -> Path:
    """Return the path of the index beside a shard."""
    return shard.with_suffix(".index.npy")


def image_number(image_id: str) -> int:
    """Return 64 bits of a hash of an image's id, as a signed number."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little", signed=True)


def index_rows(shard: Path, records: Mapping[str, RecordEntry]) -> NDArray[np.int64]:
    """Find every sample of a shard.

    Args:
        shard: A WebDataset tar.
        records: By key, in the order of the shard; members of other keys are left out.

    Returns:
        (samples, 8) int64, see `Column`.
    """
    places: dict[str, list[int]] = {key: [0] * 6 for key in records}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, extensions = split_name(member.name)
            if key in places and member.isfile():
                column = column_of(extensions)
                places[key][column : column + 2] = member.offset_data, member.size
    rows = [
        (*places[key], item, image_number(entry.image_id))
        for key, entry in records.items()
        for item in range(entry.samples)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, len(Column))


def split_name(name: str) -> tuple[str, str]:
    """Split a tar member's name into key and extensions as webdataset does: at the first dot of the file's name."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, _, extensions = file.partition(".")
    return f"{folder}{slash}{key}", extensions


def key_in_header(descriptor: int, offset: int) -> str:
    """Return the key of the member whose content begins at ``offset``, from the header before it.

    Raises:
        tarfile.TarError: There is no header.
    """
    header = os.pread(descriptor, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
    return split_name(tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name)[0]


def column_of(extensions: str) -> Column:
    """Return the column of the offset of a member ``KEY.extensions``."""
    if extensions in TEXT_EXTENSIONS:
        return Column.TEXT_OFFSET
    return Column.RIGHT_OFFSET if extensions.startswith(f"{RIGHT}.") else Column.IMAGE_OFFSET


def check_shard(folder: Path, entry: ShardEntry) -> None:
    """Compare a shard and its index with the manifest's entry; raises what `ShardFolder` does."""
    path, index = folder / entry.name, index_path(folder / Path(entry.name).name)
    again = "make the shards again with python -m datamodules.prepare"
    for needed in (path, index):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} not found, but {folder / MANIFEST} lists it: {again}")
    if path.stat().st_size != entry.bytes:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, {entry.bytes:,} in its manifest (truncated?): {again}"
        )
    open_index(index, entry.samples)


def open_index(path: Path, samples: int) -> NDArray[np.int64]:
    """Map an index into memory; raises ValueError if it is not one of so many samples."""
    again = "make the shards again with python -m datamodules.prepare"
    try:
        rows: NDArray[np.int64] = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no index ({error}): {again}") from error
    if rows.shape != (samples, len(Column)):
        raise ValueError(f"{path} has shape {rows.shape}, not {(samples, len(Column))} as its manifest says: {again}")
    return rows
