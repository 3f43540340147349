"""A folder of copies of remote files that all processes of a machine share: locks, sizes, room for more.

Locks are the kernel's (``flock``): they end with their process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOCK, PART = ".lock", ".part"
OURS = re.compile(r"[0-9a-f]{20}-.+")  # files of a cache folder that the cache made; it touches no others


class StoreError(Exception):
    """A file that cannot be had; the message says which, after how many tries, why, and what to do."""


@dataclass(frozen=True)
class CacheOptions:
    """How remote files are fetched and kept.

    The limit holds for the files in the folder. One that a process still has open when it is evicted takes its space
    until it is closed, and files being fetched may exceed the limit by their size.
    """

    folder: Path
    limit_bytes: int
    retries: int = 5  # tries after the first
    first_wait: float = 1.0  # seconds before the second try; doubled before each further one
    timeout: float = 60.0  # seconds without a connection or a byte, not of the whole download

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.limit_bytes <= 0 or self.retries < 0 or self.first_wait < 0 or self.timeout <= 0:
            raise ValueError(f"{self}: limit_bytes and timeout must be positive, retries and first_wait not negative")


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file of the same name and another suffix behind it."""
    return path.with_name(path.name + suffix)


def is_current(path: Path, expected_bytes: int | None) -> bool:
    """Return whether a cached copy is there and has its size; if so, it is now the one used last."""
    try:
        if expected_bytes not in (None, path.stat().st_size):
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold a lock file, and remove it at the end; yields its descriptor.

    What the holder writes there is the `StoreError` of those who wait meanwhile: else each of them would try as long.

    Raises:
        StoreError: The holder failed while this process waited.
        BlockingIOError: Another process holds it, and ``wait`` is False.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(path, descriptor):
                try:
                    yield descriptor
                finally:
                    path.unlink(missing_ok=True)
                    # a child forked meanwhile holds the descriptor too, so that closing it here would not unlock
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                return
            # its holder finished and removed the name; a new lock of that name may have other holders
            if message := os.pread(descriptor, 1 << 16, 0):
                raise StoreError(message.decode())
        finally:
            os.close(descriptor)


def _is_named(path: Path, descriptor: int) -> bool:
    """Return whether the path still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def make_room(cache: CacheOptions, incoming: int, keep: Path) -> None:
    """Evict the files used longest ago, but ``keep``, until the rest and ``incoming`` bytes are within the limit.

    Evicting a file that another process has open is safe: on Linux its content stays until it is closed.
    """
    for lock in cache.folder.glob(f"*{LOCK}"):
        # whose process was killed: its half download is of no use, and its lock is free
        if OURS.fullmatch(lock.name):
            with suppress(BlockingIOError, StoreError), exclusive(lock, wait=False):
                lock.with_suffix(PART).unlink(missing_ok=True)
    files: list[tuple[int, int, Path]] = []
    for path in cache.folder.iterdir():
        with suppress(FileNotFoundError):  # another process evicts, too
            if OURS.fullmatch(path.name):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
    total = incoming + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total > cache.limit_bytes and path != keep and path.suffix not in (LOCK, PART):
            path.unlink(missing_ok=True)
            total -= size
