"""Shard folders: WebDataset tars with an index beside each and one manifest.

``ROOT/SOURCE/SPLIT/`` holds ``000000.tar``, ``000000.index.npy`` and so on, and ``manifest.json``. An index
is an int64 array (samples, 5), one row per *sample*: image offset, image bytes, JSON offset, JSON bytes,
number of the item in its record. With it any sample is read by one seek, so that the order is the sampler's
alone. Any webdataset reader reads the tars.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from datamodules.index import check_shard, index_path, index_rows
from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import Manifest, ShardEntry
from datamodules.records import Kind, Record

__all__ = ["Kind", "Manifest", "RawSample", "Record", "SampleError", "ShardFolder", "ShardFolderWriter"]

REPORTED_SKIPS = 100  # of each kind; all are counted
OPEN_SHARDS = 64  # per folder and process, well below the usual limit of 1,024 open files
KEY = re.compile(r"[\w/-]+", re.ASCII)  # webdataset splits a member's name at its first dot
IMAGE_EXTENSIONS = ("jpg", "png")


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


class OpenShard(NamedTuple):
    """A shard's file descriptor and its index, memory-mapped."""

    descriptor: int
    rows: NDArray[np.int64]  # (samples, 5)


class ShardFolder:
    """Random access to the samples of one split; picklable, opens its files lazily in each process."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and check every shard against it.

        Raises:
            FileNotFoundError: The manifest, a shard or an index is missing.
            ValueError: The manifest is of another format, a shard is truncated, an index is not the shard's.
        """
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder / MANIFEST)
        self.kind: Kind = self.manifest.kind
        self.shard_sizes: tuple[int, ...] = tuple(entry.samples for entry in self.manifest.shards)
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        for entry in self.manifest.shards:
            check_shard(self.folder, entry)

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(self.shard_sizes)

    def read(self, shard: int, row: int) -> RawSample:
        """Read one sample.

        Args:
            shard: Number of the shard in the manifest.
            row: Number of the sample in the shard.

        Raises:
            SampleError: "truncated shard" or "bad json".
        """
        where = f"{self.folder / self.manifest.shards[shard].name}, sample {row}"
        opened = self._shard(shard)
        image_offset, image_bytes, json_offset, json_bytes, item = map(int, opened.rows[row])
        image = os.pread(opened.descriptor, image_bytes, image_offset)
        text = os.pread(opened.descriptor, json_bytes, json_offset)
        if len(image) != image_bytes or len(text) != json_bytes:
            raise SampleError("truncated shard", f"{where}: the file ends within the sample; make the shards again")
        try:
            record = Record.from_json(text)
            sample_id = f"{record.image_id}/{record.items(self.kind)[item].id}"
            return RawSample(sample_id, image, record, item, where)
        except (ValueError, IndexError) as error:
            raise SampleError("bad json", f"{where}: {error}") from error

    def close(self) -> None:
        """Close the open shards; reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1].descriptor)

    def _shard(self, shard: int) -> OpenShard:
        """Return the shard's open files; of too many the one used longest ago is closed."""
        if shard not in self._open:
            path = self.folder / self.manifest.shards[shard].name
            rows = np.load(index_path(path), mmap_mode="r")
            self._open[shard] = OpenShard(os.open(path, os.O_RDONLY), rows)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1].descriptor)
        self._open.move_to_end(shard)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: another process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        """Close the open shards; a constructor that raised has none."""
        if "_open" in self.__dict__:
            self.close()


class ShardFolderWriter:
    """Writes one split: into a hidden folder, renamed at the end, so that no half split is ever seen."""

    def __init__(self, folder: Path, source: str, split: str, kind: Kind, samples_per_shard: int = 5000) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {samples_per_shard}; it must be at least 1")
        self.folder = Path(folder)
        self.partial = self.folder.with_name(f".{self.folder.name}.partial")
        self.source, self.split, self.kind = source, split, kind
        self.samples_per_shard = samples_per_shard
        self.skipped: Counter[str] = Counter()
        self._skips: list[dict[str, str]] = []
        self._classes: Counter[str] = Counter()
        self._images = 0
        self._shards: list[ShardEntry] = []
        self._pending: dict[str, int] = {}  # the open shard's keys, in order, with their numbers of samples
        self._pending_samples = 0
        self._tar: Any = None

    def __enter__(self) -> Self:
        """Make the hidden folder; what an interrupted conversion left there is removed."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return self

    def write(self, key: str, image: bytes, extension: str, record: Record) -> None:
        """Append an image (encoded) and its record; a record's samples stay in one shard.

        Raises:
            ValueError: The key is no tar key or is there already, or the record has no sample of the folder's
                kind.
        """
        samples = len(record.items(self.kind))
        if not samples or extension not in IMAGE_EXTENSIONS or not KEY.fullmatch(key):
            raise ValueError(
                f"{self.folder}: record {key!r} has {samples} {self.kind}, a {extension!r} image; needed are"
                f" a key of letters, digits and _-/, at least one sample, and an image of {IMAGE_EXTENSIONS}"
            )
        if self._pending and self._pending_samples + samples > self.samples_per_shard:
            self._finish_shard()
        if key in self._pending:
            raise ValueError(f"{self.folder}: key {key!r} is written twice; give every image its own key")
        if self._tar is None:
            self._tar = TarWriter(str(self._path()), encoder=False, mtime=0, user="user", group="user")
        self._tar.write({"__key__": key, extension: image, "json": record.to_json()})
        self._pending[key] = samples
        self._pending_samples += samples
        self._images += 1
        self._classes.update(record.names)

    def skip(self, kind: str, where: str) -> None:
        """Count a defect of the source; the first hundred of each kind are listed in the manifest."""
        self.skipped[kind] += 1
        if self.skipped[kind] <= REPORTED_SKIPS:
            self._skips.append({"kind": kind, "where": where})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the finished split in its place; after an error leave an older one as it was."""
        try:
            if error is None:
                self._finish()
        finally:
            if self._tar is not None:
                self._tar.close()
            shutil.rmtree(self.partial, ignore_errors=True)

    def _path(self) -> Path:
        return self.partial / f"{len(self._shards):06d}.tar"

    def _finish_shard(self) -> None:
        """Close the open shard and write its index."""
        path = self._path()
        self._tar.close()
        self._tar = None
        rows = index_rows(path, self._pending)
        np.save(index_path(path), rows)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._shards.append(ShardEntry(path.name, len(rows), path.stat().st_size, digest))
        self._pending, self._pending_samples = {}, 0

    def _finish(self) -> None:
        """Write the last shard and the manifest, and rename the folder."""
        if not self._pending:
            raise ValueError(f"{self.folder}: the source gave no usable sample; left out: {dict(self.skipped)}")
        self._finish_shard()
        Manifest(
            source=self.source,
            split=self.split,
            kind=self.kind,
            images=self._images,
            samples=sum(entry.samples for entry in self._shards),
            boxes=self._classes.total(),
            classes={name: count for name, count in self._classes.items() if name},
            skipped=dict(self.skipped),
            skips=tuple(self._skips),
            shards=tuple(self._shards),
        ).write(self.partial / MANIFEST)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)
