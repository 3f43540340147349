"""Shard folders: WebDataset tars with an index beside each and one manifest.

``ROOT/SOURCE/SPLIT/`` holds ``000000.tar``, ``000000.index.npy`` and so on, and ``manifest.json``. By its index
(see index.py) any sample is read by one seek, so that the order is the sampler's alone. Any webdataset reader
reads the tars. Tars of image, caption and nothing else that we need (img2dataset's) are taken as they are:
only index and manifest are ours.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.cache import StoreError
from datamodules.index import (
    AGAIN,
    UNCHECKED,
    Column,
    DamagedError,
    WrongIndexError,
    check_neighbours,
    check_shard,
    checksum,
    image_number,
    index_path,
    open_index,
    read_member,
)
from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import Manifest, read_manifest
from datamodules.records import Kind, Record, Text
from datamodules.store import LocalStore, Store

KEPT_NUMBERS = 512  # shards whose image numbers are kept: the order asks for those of a window again and again
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
    image: bytes  # encoded; empty of a passage
    record: Record
    item: int  # number of the sample in its record
    where: str  # shard and row, for messages
    right: bytes | None = None  # the second image of a pair, or the mask of the image, encoded


class OpenShard(NamedTuple):
    """A shard's file descriptor and its index, in memory."""

    descriptor: int
    rows: NDArray[np.int64]  # (samples, 9), see `Column`


class ShardFolder:
    """Random access to the samples of one split; picklable, opens its files lazily in each process."""

    def __init__(self, place: Path | Store, check: bool = True) -> None:
        """Read the manifest and check every local shard against it; remote ones are checked when they are fetched.

        Args:
            place: The folder, or where it lies.
            check: False: a damaged shard is an error only when it is read, and no index is compared with its hash.

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
        self._numbers: OrderedDict[int, NDArray[np.int64]] = OrderedDict()  # by shard, see `images`
        self._check = check
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
            SampleError: "unreachable shard", "truncated shard", "damaged shard", "damaged sample", "wrong index" or
                "bad json".
            StoreError: No more files can be opened.
        """
        where = f"{self.name}/{self.manifest.shards[shard].name}, sample {row}"
        try:
            opened = self._shard(shard)
            return self._read(opened, row, self.manifest.shards[shard].bytes, where)
        except StarvedError:
            raise
        except StoreError as error:
            raise SampleError("unreachable shard", f"{where}: {error}") from error
        except EOFError as error:
            raise SampleError("truncated shard", f"{where}: {error}; make the shards again") from error
        except WrongIndexError as error:
            raise SampleError("wrong index", f"{where}: {error}; {AGAIN}") from error
        except tarfile.TarError as error:
            raise SampleError("damaged shard", f"{where}: no tar header where the index leads ({error})") from error
        except DamagedError as error:
            raise SampleError("damaged sample", f"{where}: {error}; {AGAIN}, or bring back a copy") from error
        except ValueError as error:
            raise SampleError("bad json", f"{where}: {error}") from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # the sample is sound: leaving it out would be wrong
                raise too_many_files(where) from error
            raise SampleError("unreachable shard", f"{where}: {error.strerror}") from error

    def _read(self, opened: OpenShard, row: int, shard_bytes: int, where: str) -> RawSample:
        place = opened.rows[row].tolist()
        columns = [] if self.kind == "passages" else [Column.IMAGE_OFFSET]
        columns += [Column.TEXT_OFFSET, *([Column.RIGHT_OFFSET] if place[Column.RIGHT_BYTES] else [])]
        keys: list[str] = []
        found: dict[Column, bytes] = {}
        for column in columns:
            key, found[column] = read_member(opened.descriptor, place[column], place[column + 1], shard_bytes)
            keys.append(key)
        if len(set(keys)) > 1:
            raise WrongIndexError(f"the index takes {' and '.join(sorted(set(keys)))} for one sample")
        key, text = keys[0], found[Column.TEXT_OFFSET]
        if self.manifest.layout == "captions":
            caption = Text("0", " ".join(text.decode().split()), None)
            record = Record(f"{self.manifest.source}/{key}", texts=(caption,))
        else:
            check_neighbours(opened.rows, row, shard_bytes)
            record = Record.from_json(text)
        item, items = place[Column.ITEM], record.items(self.kind)
        if image_number(record.image_id) != place[Column.IMAGE]:
            raise WrongIndexError(f"the index means another image than {record.image_id}, which lies there")
        if not 0 <= item < len(items):
            raise WrongIndexError(f"the index means number {item} of the record's {len(items)} {self.kind}")
        if place[Column.CHECK] not in (UNCHECKED, checksum((place[column], data) for column, data in found.items())):
            raise DamagedError(f"the bytes of {key} are not those that were written")
        image, right = found.get(Column.IMAGE_OFFSET, b""), found.get(Column.RIGHT_OFFSET)
        return RawSample(f"{record.image_id}/{items[item].id}", image, record, item, where, right)

    def images(self, shard: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a number (K,) for the image of each sample; rows (K,) of one shard.

        Samples of one image have one number, in other shards and sources too. Only the index is fetched.

        Raises:
            StoreError: The index cannot be fetched or is damaged.
        """
        if shard not in self._numbers:
            # a copy: a view would keep the whole index
            self._numbers[shard] = self._rows(shard)[:, Column.IMAGE].copy()
            if len(self._numbers) > KEPT_NUMBERS:
                self._numbers.popitem(last=False)
        self._numbers.move_to_end(shard)
        numbers: NDArray[np.int64] = self._numbers[shard][rows]
        return numbers

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
        """Read a shard's index; raises StoreError if it is damaged or cannot be had."""
        entry = self.manifest.shards[shard]
        index, digest = index_path(Path(entry.name)).name, entry.index_sha256 if self._check else ""
        try:
            return self.store.opened(index, lambda path: open_index(path, entry.samples, digest), version=entry.sha256)
        except ValueError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise too_many_files(f"{self.name}/{index}") from error
            raise StoreError(f"{self.name}/{index}: {error.strerror}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: another process opens its own."""
        return {**self.__dict__, "_open": OrderedDict(), "_numbers": OrderedDict()}

    def __del__(self) -> None:
        """Close the open shards; a constructor that raised has none."""
        if "_open" in self.__dict__:
            self.close()


class StarvedError(StoreError):
    """The system gives no more of something that loading needs: no fault of a sample, so that none is left out."""


def too_many_files(where: str) -> StarvedError:
    """Return the error of a process that may open no more files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return StarvedError(
        f"{where}: this process may open no more than {limit} files: raise the limit (ulimit -n 4096), or lower "
        "data.shuffle_shards or data.workers"
    )


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
