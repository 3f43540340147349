"""Shard folders: WebDataset tars with an index beside each and one manifest.

``ROOT/SOURCE/SPLIT/`` holds ``000000.tar``, ``000000.index.npy`` and so on, and ``manifest.json``. By its index
(see index.py) any sample is read by one seek, so that the order is the sampler's alone. Any webdataset reader
reads the tars. Tars of image, caption and nothing else that we need (img2dataset's) are taken as they are:
only index and manifest are ours.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.cache import StoreError
from datamodules.index import Column, check_shard, index_path, key_in_header, open_index
from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import Manifest, read_manifest
from datamodules.records import Kind, Record, Text
from datamodules.store import LocalStore, Store

OPEN_SHARDS = 32  # per folder and process: two windows of the order; open shards keep their space in a cache


class SampleError(Exception):
    """A sample that cannot be used: ``kind`` is a short fixed phrase, ``where`` says where and what."""

    def __init__(self, kind: str, where: str) -> None:
        super().__init__(kind, where)  # both as arguments, so that the error pickles
        self.kind = kind
        self.where = where

    def __str__(self) -> str:
        """Return kind and place in one line."""
        return f"{self.kind}: {self.where}"


@dataclass(frozen=True)
class RawSample:
    """One sample as it lies in its shard."""

    sample_id: str  # image id, then the item's id
    image: bytes  # encoded
    record: Record
    item: int  # number of the sample in its record
    where: str  # shard and row, for messages
    right: bytes | None = None  # the second image of a pair, encoded


class OpenShard(NamedTuple):
    """A shard's file descriptor and its index, memory-mapped."""

    descriptor: int
    rows: NDArray[np.int64]  # (samples, 8), see `Column`


class ShardFolder:
    """Random access to the samples of one split; picklable, opens its files lazily in each process."""

    def __init__(self, place: Path | Store, check: bool = True) -> None:
        """Read the manifest and check every local shard against it; remote ones are checked when they are fetched.

        Args:
            place: The folder, or where it lies.
            check: False: a damaged shard is an error only when it is read.

        Raises:
            FileNotFoundError: The manifest, a shard or an index is missing.
            ValueError: The manifest is of another format, a shard is truncated, an index is not the shard's.
            StoreError: A remote manifest cannot be fetched.
        """
        self.store = place if isinstance(place, Store) else LocalStore(Path(place))
        self.name = self.store.name  # path or address, for messages
        local = isinstance(self.store, LocalStore)
        content = read_manifest(Path(self.name) / MANIFEST) if local else self.store.read(MANIFEST)
        self.manifest = Manifest.parse(content, f"{self.name}/{MANIFEST}")
        self.digest = hashlib.sha256(content).hexdigest()  # of the manifest, which has those of the shards
        self.kind: Kind = self.manifest.kind
        self.shard_sizes: tuple[int, ...] = tuple(entry.samples for entry in self.manifest.shards)
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        for entry in self.manifest.shards if check and local else ():
            check_shard(Path(self.name), entry)

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.shard_sizes)

    def read(self, shard: int, row: int) -> RawSample:
        """Read one sample.

        Args:
            shard: Number of the shard in the manifest.
            row: Number of the sample in the shard.

        Raises:
            SampleError: "unreachable shard", "truncated shard", "damaged shard" or "bad json".
        """
        where = f"{self.name}/{self.manifest.shards[shard].name}, sample {row}"
        try:
            opened = self._shard(shard)
        except StoreError as error:
            raise SampleError("unreachable shard", f"{where}: {error}") from error
        place = opened.rows[row].tolist()
        image, right, text = (
            self._cut(opened.descriptor, place[column], place[column + 1], where)
            for column in (Column.IMAGE_OFFSET, Column.RIGHT_OFFSET, Column.TEXT_OFFSET)
        )
        item = place[Column.ITEM]
        try:
            if self.manifest.layout == "captions":
                record = self._captioned(opened.descriptor, place[Column.IMAGE_OFFSET], text)
            else:
                record = Record.from_json(text)
            sample_id = f"{record.image_id}/{record.items(self.kind)[item].id}"
            return RawSample(sample_id, image, record, item, where, right or None)
        except (ValueError, IndexError) as error:
            raise SampleError("bad json", f"{where}: {error}") from error
        except tarfile.TarError as error:
            raise SampleError("damaged shard", f"{where}: {error}") from error

    def images(self, shard: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a number (K,) for the image of each sample; rows (K,) of one shard.

        Samples of one image have one number, in other shards and sources too. Only the index is fetched.

        Raises:
            StoreError: A remote index cannot be fetched.
        """
        opened = self._open.get(shard)
        numbers: NDArray[np.int64] = (self._rows(shard) if opened is None else opened.rows)[rows, Column.IMAGE]
        return numbers

    def _captioned(self, descriptor: int, image_offset: int, caption: bytes) -> Record:
        """Make the record of a foreign sample: its key is in the tar header before its image."""
        key = key_in_header(descriptor, image_offset)
        return Record(f"{self.manifest.source}/{key}", texts=(Text("0", " ".join(caption.decode().split()), None),))

    @staticmethod
    def _cut(descriptor: int, offset: int, size: int, where: str) -> bytes:
        data = os.pread(descriptor, size, offset)
        if len(data) != size:
            raise SampleError("truncated shard", f"{where}: the file ends within the sample; make the shards again")
        return data

    def close(self) -> None:
        """Close the open shards; reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1].descriptor)

    def _shard(self, shard: int) -> OpenShard:
        """Return the shard's open files; of too many the one used longest ago is closed."""
        if shard not in self._open:
            rows, entry = self._rows(shard), self.manifest.shards[shard]
            descriptor = self.store.opened(
                entry.name, lambda path: os.open(path, os.O_RDONLY), entry.bytes, version=entry.sha256
            )
            self._open[shard] = OpenShard(descriptor, rows)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1].descriptor)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _rows(self, shard: int) -> NDArray[np.int64]:
        """Map a shard's index into memory."""
        entry = self.manifest.shards[shard]
        index = index_path(Path(entry.name)).name
        return self.store.opened(index, lambda path: open_index(path, entry.samples), version=entry.sha256)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: another process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        """Close the open shards; a constructor that raised has none."""
        if "_open" in self.__dict__:
            self.close()


def image_numbers(folders: Sequence[ShardFolder], samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number (K,) for the image of each sample; samples (K, 3) are source, shard and row.

    Only the indexes of the samples' shards are read.
    """
    numbers = np.empty(len(samples), dtype=np.int64)
    by_shard = np.lexsort((samples[:, 1], samples[:, 0]))
    cuts = np.flatnonzero(np.diff(samples[by_shard, :2], axis=0).any(axis=1)) + 1
    for part in np.split(by_shard, cuts):
        source, shard, _ = samples[part[0]].tolist()
        numbers[part] = folders[source].images(shard, samples[part, 2])
    return numbers
