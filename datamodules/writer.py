"""Writes shard folders: tars by webdataset's writer, an index beside each, the manifest at the end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from datamodules.index import MASK, RIGHT, RecordEntry, index_path, index_rows
from datamodules.manifest import Manifest, ShardEntry
from datamodules.partial import PartialSplit, Skip, make_skip, skip_line, sync, write_file
from datamodules.records import Kind, Record

KEY = re.compile(r"[\w/-]+", re.ASCII)  # webdataset splits a member's name at its first dot
IMAGE_EXTENSIONS = ("jpg", "png")


class ShardFolderWriter:
    """Writes one split: into a hidden folder, renamed at the end, so that no half split is ever seen.

    What an interrupted writer with the same ``made_from`` finished is kept: give this one the same items again,
    without the first ``items`` of them, and the shards become the same.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        split: str,
        kind: Kind,
        samples_per_shard: int = 5000,
        made_from: dict[str, Any] | None = None,
        resume: bool = True,
    ) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {samples_per_shard}; it must be at least 1")
        self.folder = Path(folder)
        self.partial = PartialSplit(self.folder, made_from)
        self.source, self.split, self.kind = source, split, kind
        self.samples_per_shard = samples_per_shard
        self.skipped: Counter[str] = Counter()
        self.listed: tuple[Skip, ...] = ()  # the first of each kind, once it is finished
        self.items = 0  # written or left out
        self.images = 0  # records written
        self._resume = resume
        self._classes: Counter[str] = Counter()
        self._shard_classes: Counter[str] = Counter()  # of the open shard, as are the next four
        self._shard_items = 0
        self._shard_skips: list[Skip] = []
        self._pending: dict[str, RecordEntry] = {}  # by key
        self._pending_samples = 0
        self._tar: Any = None
        self._annotation_skips: Any = None

    def __enter__(self) -> Self:
        """Take up what an interrupted conversion from the same things left, or start anew."""
        self.partial.open(self._resume)
        for finished in self.partial.finished:
            self.items += finished.content["items"]
            self.images += finished.content["images"]
            self._classes.update(finished.content["classes"])
            self.skipped.update(skip["kind"] for skip in finished.skips)
        self._annotation_skips = self._skips_path().open("w", encoding="utf-8")
        return self

    def write(
        self, key: str, image: bytes, extension: str, record: Record, right: tuple[bytes, str] | None = None
    ) -> None:
        """Append an image (encoded) and its record; a record's samples stay in one shard.

        ``right`` is the second image of a pair, or the mask of the image where the folder's kind is masks, and its
        extension. See `write_passage` for records without an image.

        Raises:
            ValueError: The key is no tar key or is there already, or the record has no sample of the folder's
                kind, or no mask where they are that.
        """
        if self.kind == "masks" and (right is None or right[1] != "png"):
            raise ValueError(f"{self.folder}: record {key!r} has no mask; give it as a PNG")
        second = {f"{MASK if self.kind == 'masks' else RIGHT}.{right[1]}": right[0]} if right else {}
        self._write(key, {extension: image, **second}, record, (extension, *([right[1]] if right else [])))

    def write_passage(self, key: str, record: Record) -> None:
        """Append a record of a text alone; raises what `write` does."""
        self._write(key, {}, record, ())

    def _write(self, key: str, images: dict[str, bytes], record: Record, extensions: tuple[str, ...]) -> None:
        samples = len(record.items(self.kind))
        pictured = bool(extensions) == (self.kind != "passages") and set(extensions) <= set(IMAGE_EXTENSIONS)
        if not samples or not pictured or not KEY.fullmatch(key):
            raise ValueError(
                f"{self.folder}: record {key!r} has {samples} {self.kind}, images {extensions}; needed are"
                f" a key of letters, digits and _-/, at least one sample, and images of {IMAGE_EXTENSIONS}"
                f" (none beside passages)"
            )
        if self._pending and self._pending_samples + samples > self.samples_per_shard:
            self._finish_shard()
        if key in self._pending:
            raise ValueError(f"{self.folder}: key {key!r} is written twice; give every image its own key")
        if self._tar is None:
            self._tar = TarWriter(str(self._path()), encoder=False, mtime=0, user="user", group="user")
        self._tar.write({"__key__": key, **images, "json": record.to_json()})
        self._pending[key] = RecordEntry(samples, record.image_id)
        self._pending_samples += samples
        self._shard_classes.update(record.names)
        self._count_item()
        self.images += 1

    def skip(self, kind: str, where: str) -> None:
        """Count a defect of the annotations, which is found again when the items are given again."""
        self.skipped[kind] += 1
        self._annotation_skips.write(skip_line(make_skip(kind, where)))

    def leave_out(self, kind: str, where: str) -> None:
        """Count an item whose image cannot be used, in place of writing it."""
        self.skipped[kind] += 1
        self._shard_skips.append(make_skip(kind, where))
        self._count_item()

    def _count_item(self) -> None:
        self.items += 1
        self._shard_items += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the finished split in its place; after an error leave an older one as it was."""
        with contextlib.ExitStack() as stack:  # a full disk may refuse any of these; the others happen all the same
            stack.callback(self.partial.close)
            stack.callback(self._annotation_skips.close)
            stack.callback(self._close_tar)
            if error is None:
                self._finish()

    def _close_tar(self) -> None:
        tar, self._tar = self._tar, None
        if tar is not None:
            tar.close()

    def _path(self) -> Path:
        return self.partial.shards / f"{len(self.partial.finished):06d}.tar"

    def _skips_path(self) -> Path:
        return self.partial.hidden / "annotation_skips.jsonl"

    def _finish_shard(self) -> None:
        """Close the open shard, write its index, and enter both in the journal."""
        path = self._path()
        self._close_tar()
        sync(path)
        rows = index_rows(path, self._pending)
        index = npy_bytes(rows)
        write_file(index_path(path), index)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        content = {
            "items": self._shard_items,
            "images": len(self._pending),
            "classes": self._shard_classes,
            "entry": vars(
                ShardEntry(path.name, len(rows), path.stat().st_size, digest, hashlib.sha256(index).hexdigest())
            ),
        }
        self.partial.add(content, self._shard_skips, (path, index_path(path)))
        self._classes += self._shard_classes
        self._shard_classes, self._shard_items, self._shard_skips = Counter(), 0, []
        self._pending, self._pending_samples = {}, 0

    def _finish(self) -> None:
        """Write the last shard and the manifest, and rename the folder."""
        if self._pending:
            self._finish_shard()
        if not self.partial.finished:
            self._annotation_skips.flush()
            raise self.partial.nothing_usable(*self.partial.write_skips(self._skips_path(), self._shard_skips))
        self._annotation_skips.flush()
        skipped, self.listed = self.partial.write_skips(self._skips_path(), self._shard_skips)
        shards = tuple(ShardEntry(**finished.content["entry"]) for finished in self.partial.finished)
        manifest = Manifest(
            source=self.source,
            split=self.split,
            kind=self.kind,
            layout="records",
            images=self.images,
            samples=sum(entry.samples for entry in shards),
            boxes=self._classes.total(),
            classes={name: count for name, count in self._classes.items() if name},
            skipped=dict(skipped),
            skips=self.listed,
            shards=shards,
            made_from=self.partial.made_from,
        )
        self.partial.finish(manifest)


def npy_bytes(rows: NDArray[np.int64]) -> bytes:
    """Return an array as the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()
