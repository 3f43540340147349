"""Verifies a shard folder: its files against the manifest, and every record and image in them."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.dataset import record_boxes
from datamodules.index import check_shard, image_number, index_path, open_index
from datamodules.inspect.wording import CHOICES, Item, wordings
from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import Manifest
from datamodules.pictures import DECODING_ERRORS, open_raster, upright_size
from datamodules.records import Kind, Record, Text, VCRItem
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.tagged import UNKNOWN
from datamodules.transforms import decode

# what an index of wrong numbers makes of reading: places outside the file, negative or enormous sizes
UNREADABLE = (SampleError, OSError, ValueError, OverflowError, MemoryError, tarfile.TarError)


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a shard folder."""

    shard: str  # its name in the manifest; "" where the whole folder is meant
    row: int | None  # number of the sample in the shard; None where the whole shard is meant
    key: str  # the sample's id; "" where it cannot be read
    what: str

    def __str__(self) -> str:
        """Return place and fault in one line."""
        place = [self.shard, "" if self.row is None else f"sample {self.row}", self.key]
        return f"{', '.join(part for part in place if part) or MANIFEST}: {self.what}"


class Verified(NamedTuple):
    """A record without faults, and its pictures."""

    record: Record
    sizes: tuple[tuple[int, int], ...]  # width and height in pixels of each picture; two of a pair, none of a passage
    image_bytes: int  # of all its pictures


class Verifier:
    """Looks at everything in a folder once; ``problems`` grows meanwhile."""

    def __init__(self, folder: Path, quick: bool = False) -> None:
        """Read the manifest.

        Args:
            folder: With a manifest.
            quick: Leave out hashing and decoding, and read each record once instead of once for each sample.

        Raises:
            FileNotFoundError: There is no manifest.
            ValueError: It is not of this format.
        """
        self.manifest = Manifest.read(folder / MANIFEST)
        self.quick = quick
        self.problems: list[Problem] = []
        self.left_out = 0  # records with a fault, and samples that cannot be read: they are in no count
        sound = [shard for shard in range(len(self.manifest.shards)) if self._check_file(folder, shard)]
        self.shards = tuple(sound)
        self.complete = len(sound) == len(self.manifest.shards)
        self.folder = ShardFolder(folder, check=False)  # which would refuse a folder with one damaged shard

    def records(self) -> Iterator[Verified]:
        """Read all sound shards; yields the records without faults, and notes the others' problems."""
        for shard in self.shards:
            row = 0
            while row < self.manifest.shards[shard].samples:
                first = self._read(shard, row)
                if first is None:
                    self.left_out += 1
                    row += 1
                    continue
                verified = self._verify(shard, row, first)
                if verified is None:
                    self.left_out += 1
                else:
                    yield verified
                # an index that starts amid a record is wrong already: go on sample by sample
                row += max(1, len(first.record.items(self.manifest.kind))) if first.item == 0 else 1

    def compare(self, images: int, boxes: int, classes: Counter[str]) -> None:
        """Compare counts with the manifest's; where something could not be read they cannot be equal."""
        listed = sum(entry.samples for entry in self.manifest.shards)
        if listed != self.manifest.samples:
            self._note(None, None, "", f"samples is {self.manifest.samples:,}, but its shards have {listed:,}")
        if not self.complete or self.left_out:
            return
        for name, told, found in (("images", self.manifest.images, images), ("boxes", self.manifest.boxes, boxes)):
            if told != found:
                self._note(None, None, "", f"{name} is {told:,}, but the shards hold {found:,}")
        for name in sorted(self.manifest.classes.keys() | classes.keys()):
            told, found = self.manifest.classes.get(name, 0), classes[name]
            if told != found:
                self._note(None, None, "", f"classes has {told:,} boxes of {name!r}, but the shards hold {found:,}")

    def _note(self, shard: int | None, row: int | None, key: str, what: str) -> None:
        name = "" if shard is None else self.manifest.shards[shard].name
        self.problems.append(Problem(name, row, key, what))

    def _check_file(self, folder: Path, shard: int) -> bool:
        """Compare a shard's file and index with the manifest; says whether its samples can be read."""
        entry = self.manifest.shards[shard]
        try:
            check_shard(folder, entry)
            if not self.quick:
                with (folder / entry.name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != entry.sha256:
                    self._note(shard, None, "", f"sha256 is {digest}, not {entry.sha256} as the manifest says")
                try:
                    open_index(index_path(folder / Path(entry.name).name), entry.samples, entry.index_sha256)
                except ValueError as error:
                    self._note(shard, None, "", str(error))  # its rows are looked at all the same
        except (OSError, ValueError) as error:
            self._note(shard, None, "", str(error))
            return False
        return True

    def _read(self, shard: int, row: int) -> RawSample | None:
        """Read a sample; a problem is noted."""
        try:
            return self.folder.read(shard, row)
        except UNREADABLE as error:
            # the shard's path and the row, which such an error begins with, are told already
            told = error.where.partition(f"sample {row}: ")[2] if isinstance(error, SampleError) else str(error)
            kind = error.kind if isinstance(error, SampleError) else "wrong index"
            self._note(shard, row, "", f"{kind}: {told or type(error).__name__}")
            return None

    def _verify(self, shard: int, row: int, first: RawSample) -> Verified | None:
        """Check a record at its first sample; None where it has a fault."""
        before = len(self.problems)
        self._check_rows(shard, row, first)
        try:
            for item, fault in record_faults(first.record, self.manifest.kind):
                key = f"{first.record.image_id}/{first.record.items(self.manifest.kind)[item].id}"
                self._note(shard, row + item, key, fault)
        except (TypeError, AttributeError, ValueError) as error:
            self._note(shard, row, first.sample_id, f"bad record: a value of the wrong type ({error})")
        sizes = []
        for data in filter(None, (first.image, first.right)):
            try:
                sizes.append(image_size(data, self.quick, self.manifest.layout == "captions"))
            except ValueError as error:
                self._note(shard, row, first.sample_id, f"unreadable image: {error}")
        if not first.image and self.manifest.kind != "passages":
            self._note(shard, row, first.sample_id, "unreadable image: no bytes")
        if len(self.problems) > before:
            return None
        return Verified(first.record, tuple(sizes), len(first.image) + len(first.right or b""))

    def _check_rows(self, shard: int, row: int, first: RawSample) -> None:
        """Check that the index leads from row to row through the record's samples."""
        count, size = len(first.record.items(self.manifest.kind)), self.manifest.shards[shard].samples
        if first.item:
            self._note(shard, row, first.sample_id, f"wrong index: sample {first.item} of a record, without the first")
            return
        if row + count > size:
            told = f"wrong index: the record has {count} {self.manifest.kind}, but only {size - row} rows are left"
            self._note(shard, row, first.sample_id, told)
        rows = np.arange(row, min(row + count, size))
        numbers = self.folder.images(shard, rows)
        for other in rows[numbers != image_number(first.record.image_id)].tolist():
            self._note(shard, other, first.sample_id, "wrong index: the number of another image")
        for other in () if self.quick else rows[1:].tolist():
            raw = self._read(shard, other)
            if raw is not None and (raw.item != other - row or raw.record != first.record or raw.image != first.image):
                told = f"wrong index: leads to {raw.sample_id}, not to sample {other - row} of {first.record.image_id}"
                self._note(shard, other, raw.sample_id, told)


def image_size(data: bytes, quick: bool, turn: bool = False) -> tuple[int, int]:
    """Return width and height in pixels, upright where ``turn``; a quick look reads the header only.

    Raises:
        ValueError: The picture cannot be decoded, or its header cannot be read.
    """
    if not quick:
        height, width = decode(data, turn).shape[1:]
        return width, height
    try:
        with open_raster(data) as image:
            return upright_size(image) if turn else image.size
    except DECODING_ERRORS as error:
        raise ValueError(str(error)) from error


def record_faults(record: Record, kind: Kind) -> Iterator[tuple[int, str]]:
    """Yield number of the sample and fault of what a stream would leave out."""
    try:
        record_boxes(record, record.image_id)
    except SampleError as error:
        yield 0, str(error)
    for number, item in enumerate(record.items(kind)):
        for fault in item_faults(item, record):
            yield number, fault


def item_faults(item: Item, record: Record) -> Iterator[str]:
    """Yield the faults of one sample of a record."""
    tags: set[int] = set()
    if isinstance(item, Text):
        tags.update(item.boxes or ())
    if isinstance(item, VCRItem):
        told = (item.question, *item.answer_choices, *item.rationale_choices)
        tags.update(tag for text in told for part in text if not isinstance(part, str) for tag in part)
        answers, rationales = (item.answer_choices, item.answer_label), (item.rationale_choices, item.rationale_label)
        for name, (choices, label) in (("answers", answers), ("rationales", rationales)):
            if len(choices) != CHOICES or label not in (None, *range(CHOICES)):
                yield f"bad choices: {len(choices)} {name}, label {label}; {CHOICES} are needed"
    if wrong := sorted(tag for tag in tags if not 0 <= tag < len(record.boxes)):
        yield f"bad mention: objects {wrong}, but there are {len(record.boxes)} boxes"
        return
    for name, text in wordings(item, [name or UNKNOWN for name in record.names]):
        if not text.strip():
            yield f"empty text: its {name}"
