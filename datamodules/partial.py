"""A split in the making: a hidden folder that survives an interruption and takes the split's place at the end.

``.SPLIT.partial/`` holds ``made_from.json``, ``shards/`` (what becomes ``SPLIT/``) and ``journal/``: one small
file a finished shard, renamed into being after all of the shard's bytes are on the disk. So whatever moment a
conversion is killed at, the shards of the journal are whole, and what is not in the journal is made again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.index import check_shard
from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import Manifest

SKIPS = "skips.jsonl"  # beside the manifest: every skipped item; there is none where nothing was skipped
LISTED_SKIPS = 100  # of each kind in the manifest itself
Skip = dict[str, str]  # {"kind", "where"}


class Finished(NamedTuple):
    """A finished shard, as the journal has it."""

    content: dict[str, Any]  # what its writer needs to go on after it
    skips: list[Skip]  # what was left out since the shard before it
    files: dict[str, int]  # bytes by name, in the shard folder


class PartialSplit:
    """The hidden folder of one split."""

    def __init__(self, folder: Path, made_from: dict[str, Any] | None = None) -> None:
        """Name the split's folder; without ``made_from`` nothing is ever resumed."""
        self.folder = Path(folder)
        self.hidden = self.folder.with_name(f".{self.folder.name}.partial")
        self.shards = self.hidden / "shards"
        self.finished: list[Finished] = []
        self.discarded = False  # an interrupted conversion was there, and was made from something else
        self.made_from = canonical(made_from or {})
        self._resumable = made_from is not None
        self._lock = -1

    def open(self, resume: bool = True) -> None:
        """Take up what an interrupted conversion from the same things finished, or start anew.

        Raises:
            ValueError: Another process is at work on it.
        """
        self.hidden.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.hidden)
        if (self.hidden / "older").is_dir() and not self.folder.exists():
            (self.hidden / "older").rename(self.folder)  # killed between the two renames of `finish`
        found = read_json(self.hidden / "made_from.json")
        if found is None or not resume or not self._resumable or found != self.made_from:
            self.discarded = found is not None and found != self.made_from
            self._clear()
        else:
            self._take_up()

    def _clear(self) -> None:
        for path in self.hidden.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.shards.mkdir()
        (self.hidden / "journal").mkdir()
        if self._resumable:
            write_file(self.hidden / "made_from.json", to_json(self.made_from))

    def _take_up(self) -> None:
        """Read the journal up to the first shard that is not whole, and remove what is not in it."""
        for folder in (self.shards, self.hidden / "journal"):
            folder.mkdir(exist_ok=True)
        while (entry := read_json(self._entry_path(len(self.finished)))) is not None:
            finished = Finished(**entry)
            if any(size_of(self.shards / name) != size for name, size in finished.files.items()):
                break
            self.finished.append(finished)
        kept = {self.shards / name for finished in self.finished for name in finished.files}
        kept |= {self._entry_path(number) for number in range(len(self.finished))}
        for path in (*self.shards.iterdir(), *(self.hidden / "journal").iterdir()):
            if path not in kept:
                path.unlink()

    def _entry_path(self, number: int) -> Path:
        return self.hidden / "journal" / f"{number:06d}.json"

    def add(self, content: dict[str, Any], skips: list[Skip], files: Iterable[Path]) -> None:
        """Write a finished shard into the journal; its files are on the disk already."""
        finished = Finished(content, skips, {path.name: path.stat().st_size for path in files})
        write_file(self._entry_path(len(self.finished)), to_json(finished._asdict()))
        self.finished.append(finished)

    def _failed_skips(self) -> Path:
        """Return where `nothing_usable` leaves its list."""
        return self.folder.with_name(f"{self.folder.name}.{SKIPS}")

    def nothing_usable(self, counts: Mapping[str, int], listed: Iterable[Skip]) -> ValueError:
        """Return the error of a split that gave no sample, and leave the list of what was left out beside its place.

        Args:
            counts: How many of each kind.
            listed: Those that `write_skips` returns.
        """
        file = self._failed_skips()
        file.unlink(missing_ok=True)
        if not counts:
            return ValueError(f"{self.folder}: no sample can be used: the annotations of this split name none")
        listing = ""
        if (self.shards / SKIPS).is_file():
            shutil.copyfile(self.shards / SKIPS, file)
            listing = f" {file} lists all."
        return ValueError(f"{self.folder}: no sample can be used: {first_of_each(counts, listed)}.{listing}")

    def write_skips(self, before: Path | None, after: Sequence[Skip] = ()) -> tuple[Counter[str], tuple[Skip, ...]]:
        """Write ``skips.jsonl``: first those of the annotations, then those of the shards.

        Args:
            before: JSON lines of the annotations' defects, if any.
            after: What was left out after the last finished shard.

        Returns:
            How many of each kind, and the first hundred of each kind.
        """
        counts: Counter[str] = Counter()
        listed: list[Skip] = []
        with contextlib.ExitStack() as stack:
            lines: Iterable[str] = stack.enter_context(before.open(encoding="utf-8")) if before else ()
            out = stack.enter_context((self.shards / SKIPS).open("w", encoding="utf-8"))
            of_shards = itertools.chain.from_iterable(finished.skips for finished in self.finished)
            for line in itertools.chain(lines, map(skip_line, itertools.chain(of_shards, after))):
                out.write(line)
                skip = json.loads(line)
                counts[skip["kind"]] += 1
                if counts[skip["kind"]] <= LISTED_SKIPS:
                    listed.append(skip)
        if not listed:
            (self.shards / SKIPS).unlink()
        return counts, tuple(listed)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and put the split in its place; an older one goes when the new one is there."""
        manifest.write(self.shards / MANIFEST)
        for name in (SKIPS, MANIFEST):
            if (self.shards / name).is_file():
                sync(self.shards / name)
        sync(self.shards)
        if self.folder.exists():
            self.folder.rename(self.hidden / "older")
        self.shards.rename(self.folder)
        self._failed_skips().unlink(missing_ok=True)  # of an earlier try that gave no sample
        sync(self.folder.parent)
        self.finished = []

    def remove(self) -> None:
        """Remove what a conversion that was killed at its very end left behind."""
        if self.hidden.exists():
            self.open(resume=False)
            self.close()

    def close(self) -> None:
        """Remove the hidden folder, unless a conversion can go on from it."""
        if self._lock < 0:
            return
        if not self.finished or not self._resumable:
            shutil.rmtree(self.hidden, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def already_made(folder: Path, made_from: dict[str, Any]) -> bool:
    """Return whether a split's folder is whole, by name and size of its files, and made from the same things."""
    try:
        manifest = Manifest.read(folder / MANIFEST)
        if manifest.made_from != canonical(made_from):
            return False
        for entry in manifest.shards:
            check_shard(folder, entry)
    except (FileNotFoundError, ValueError):
        return False
    return True


def locked(folder: Path) -> int:
    """Open a folder, and refuse one that another process is at work on; the lock ends with the process.

    Raises:
        ValueError: Another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(f"{folder}: another conversion is writing this split; wait for its end") from error
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # network filesystems without locks
            raise
    return descriptor


def canonical(value: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary as it comes back from JSON, so that it can be compared with one that did."""
    parsed: dict[str, Any] = json.loads(to_json(value))
    return parsed


def to_json(value: object) -> bytes:
    """Return sorted, compact JSON."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def skip_line(skip: Skip) -> str:
    """Return a line of ``skips.jsonl``."""
    return to_json(skip).decode() + "\n"


def make_skip(kind: str, where: str) -> Skip:
    """Return a skipped item; what no UTF-8 can say (file names may be any bytes) is escaped."""
    return {"kind": kind, "where": where.encode("utf-8", "backslashreplace").decode()}


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file of the journal says; None if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return content


def size_of(path: Path) -> int:
    """Return a file's bytes; -1 if there is none."""
    return path.stat().st_size if path.is_file() else -1


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, even after a power failure."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_of_each(counts: Mapping[str, int], listed: Iterable[Skip]) -> str:
    """Return how many of each kind were left out, and where the first of each stands."""
    first: dict[str, str] = {}
    for skip in listed:
        first.setdefault(skip["kind"], skip["where"])
    places = {kind: f" (first: {where})" for kind, where in first.items()}
    return "; ".join(f"{count:,} x {kind}{places.get(kind, '')}" for kind, count in sorted(counts.items())) or "nothing"
