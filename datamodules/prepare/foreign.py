"""Tars of image-caption pairs that others made (img2dataset, pixparse), taken as they are.

A sample is ``KEY.jpg`` (or .jpeg, .png, .webp) and ``KEY.txt``; what else a tar holds (``KEY.json``) is not
read. Each tar is read once, from beginning to end, for its SHA-256 and its index; it stays where it is, and
the manifest says where that is. Images are not decoded here: the stream finds broken ones and counts them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.index import index_path
from datamodules.manifest import Manifest, ShardEntry
from datamodules.partial import PartialSplit, write_file
from datamodules.prepare.parallel import ordered_map, progress_line
from datamodules.prepare.tar_scan import Scan, scan_tar
from datamodules.writer import npy_bytes

SPLITS = ("train", "val")
OTHER_SPLITS = ("val", "test")  # tars with these in their names are not for training


class CaptionTars:
    """A data set in the form of foreign tars."""

    def __init__(self, src: Path, pattern: str | None = None) -> None:
        """Name the tars.

        Args:
            src: Folder with the tars.
            pattern: Glob below src in which {split} stands for the split's name; without it SPLIT/*.tar, else
                *SPLIT*.tar, else for train *.tar.

        Raises:
            ValueError: The pattern is empty or absolute.
        """
        if pattern is not None and (not pattern.strip() or "\0" in pattern or os.path.isabs(pattern)):
            raise ValueError(f"--pattern {pattern!r}: a pattern below --src is needed, such as '{{split}}/*.tar'")
        self.src = src
        self.pattern = pattern

    def standard_splits(self) -> tuple[str, ...]:
        """Return the splits that there are tars for; the training split has to be there."""
        return tuple(split for split in SPLITS if split == "train" or self.found(split))

    def tars(self, split: str) -> list[Path]:
        """Return a split's tars, sorted.

        Raises:
            FileNotFoundError: There are none.
            ValueError: Two have the same name, so that their indexes would be one file.
        """
        paths = self.found(split)
        if not paths:
            tried = ", ".join(self.patterns(split))
            raise FileNotFoundError(f"no tars for {split}: none of {tried} in {self.src}; name them with --pattern")
        by_name = {path.stem: path for path in paths}
        for path in paths:
            if by_name[path.stem] != path:
                raise ValueError(f"{path} and {by_name[path.stem]} have one name; rename one, or convert them apart")
        return paths

    def found(self, split: str) -> list[Path]:
        """Return the tars of the first pattern that any fit."""
        for pattern in self.patterns(split):
            paths = sorted(path for path in self.src.glob(pattern) if path.is_file())
            if pattern == "*.tar":
                paths = [path for path in paths if not any(other in path.name for other in OTHER_SPLITS)]
            if paths:
                return paths
        return []

    def patterns(self, split: str) -> tuple[str, ...]:
        """Return where to look for a split's tars, the best place first."""
        if self.pattern is not None:
            return (self.pattern.replace("{split}", split),)
        return (f"{split}/*.tar", f"*{split}*.tar", *(("*.tar",) if split == "train" else ()))

    def fingerprint(self, split: str) -> dict[str, Any]:
        """Return what stands for the tars in ``made_from``: a hash of their names and sizes."""
        paths = self.tars(split)
        listing = "".join(f"{path.relative_to(self.src)}\t{path.stat().st_size}\n" for path in paths)
        return {"tars": len(paths), "listing": hashlib.sha256(os.fsencode(listing)).hexdigest()}


def index_tars(paths: Sequence[Path], partial: PartialSplit, source: str, split: str, workers: int) -> Manifest:
    """Index a split's tars into its opened hidden folder; those of the journal are not read again.

    Args:
        paths: The tars; their order is that of the manifest.
        partial: Gets an index of every tar, and the journal.
        source: Name of the data set.
        split: Name of the split.
        workers: Tars read at a time; the result does not depend on it.

    Returns:
        The manifest, which is for the caller to put in place.

    Raises:
        ValueError: No tar has a usable sample.
    """
    done = len(partial.finished)
    with progress_line() as progress:
        task = progress.add_task(f"{source} {split} (tars)", total=len(paths), completed=done)
        for scan in ordered_map(functools.partial(scan_tar, source=source), paths[done:], workers):
            enter(scan, partial)
            progress.advance(task)
    skipped, listed = partial.write_skips(None)
    shards = tuple(entries(partial))
    if not shards:
        raise partial.nothing_usable(skipped, listed)
    samples = sum(entry.samples for entry in shards)
    return Manifest(
        source=source,
        split=split,
        kind="texts",
        layout="captions",
        images=samples,
        samples=samples,
        boxes=0,
        classes={},
        skipped=dict(skipped),
        skips=listed,
        shards=shards,
        made_from=partial.made_from,
    )


def enter(scan: Scan, partial: PartialSplit) -> None:
    """Write a tar's index beside the manifest-to-be and enter it in the journal; one without samples has none."""
    if not len(scan.rows):
        partial.add({"entry": None}, scan.skips, ())
        return
    index, content = index_path(partial.shards / scan.path.name), npy_bytes(scan.rows)
    write_file(index, content)
    name = relative_path(scan.path, partial.folder)
    entry = ShardEntry(name, len(scan.rows), scan.bytes, scan.sha256, hashlib.sha256(content).hexdigest())
    partial.add({"entry": vars(entry)}, scan.skips, (index,))


def entries(partial: PartialSplit) -> Iterable[ShardEntry]:
    """Yield the manifest's entries of the tars that have samples."""
    for finished in partial.finished:
        if finished.content["entry"] is not None:
            yield ShardEntry(**finished.content["entry"])


def relative_path(path: Path, folder: Path) -> str:
    """Return a tar's path from the split's folder, past links to folders; the tar itself may be a link."""
    return os.path.relpath(path.parent.resolve() / path.name, folder.resolve())
