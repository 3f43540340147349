"""Where a shard folder's files lie: in a folder, at an http(s) address, or on s3 or gs through fsspec.

Remote files are copied into a cache folder (cache.py) that all processes of a machine share: each is downloaded once,
under a lock, to a temporary name, and renamed when its size is right, so that nobody sees half of it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import posixpath
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import aiohttp
import fsspec  # type: ignore[import-untyped]

from datamodules.cache import LOCK, PART, CacheOptions, StoreError, beside, exclusive, is_current, make_room

T = TypeVar("T")
log = logging.getLogger(__name__)

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}  # what fsspec needs, by protocol
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")  # a Path makes one slash of an address's two
REMEMBERED = 60.0  # seconds for which a file that could not be fetched is not tried again
EVICTED_BEFORE_OPENED = 10  # times in a row, before we say that the cache is too small
# Errors that another try does not change. ValueError: a malformed address, a certificate that does not hold.
FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PASSING_STATUS = (408, 429)  # of the 4xx: the server timed out, too many requests


class Store(ABC):
    """The files of one shard folder, by their path relative to it."""

    name: str  # the folder's path or address, for messages

    @abstractmethod
    def local(self, name: str, expected_bytes: int | None = None, version: str = "") -> Path:
        """Return a local path of a file, fetched at need.

        Another process may evict the file before it is opened: `opened` copes with that.

        Args:
            name: Relative path; ".." is allowed.
            expected_bytes: Size in the manifest; a remote file's cached copy of another size is fetched anew.
            version: Anything that changes when the file does, such as its shard's hash, for files whose size may not.

        Raises:
            FileNotFoundError: A local file is missing.
            StoreError: A remote file cannot be fetched or has another size.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a small file as it is now, never a cached copy; raises what `local` does."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether the file is there now.

        Raises:
            StoreError: The server does not say.
        """

    def opened(self, name: str, opener: Callable[[Path], T], expected_bytes: int | None = None, version: str = "") -> T:
        """Return ``opener(path)``; fetches the file again if it is evicted between the fetching and the opening."""
        for _ in range(EVICTED_BEFORE_OPENED):
            path = self.local(name, expected_bytes, version)
            try:
                return opener(path)
            except FileNotFoundError:
                if path.exists():  # so the opener misses something else
                    raise
        raise StoreError(f"{self.name}: {name} is evicted each time before it is opened: raise the cache's limit")


class LocalStore(Store):
    """A folder on disk: nothing is copied or checked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)

    def local(self, name: str, expected_bytes: int | None = None, version: str = "") -> Path:
        """Return the file's own path; see `Store.local`."""
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return self.local(name).read_bytes()

    def exists(self, name: str) -> bool:
        """Return whether the file is there."""
        return (self.folder / name).is_file()


class RemoteStore(Store):
    """A folder at an address, read through fsspec and a cache; picklable, connects lazily in each process."""

    def __init__(self, root: str, cache: CacheOptions) -> None:
        """Take an address such as ``https://host/shards?token=x``; nothing is connected yet.

        Raises:
            StoreError: The protocol is unknown or its package is not installed.
        """
        self.protocol, _, rest = root.partition("://")
        self.cache = cache
        # Queries (of signed addresses) and passwords are secrets: they reach no message and no file name.
        self._query = ""
        if PACKAGES.get(self.protocol) == "aiohttp":
            rest, mark, query = rest.partition("?")
            self._query = mark + query
        self._host, _, folder = rest.partition("/")
        self._folder = "/" + folder
        self.name = self._shown("")
        self._failures: dict[str, tuple[float, str]] = {}  # by cache name: when and how fetching failed
        if self.protocol not in PACKAGES:
            raise StoreError(f"{self.name}: shards are read from folders and from {', '.join(PACKAGES)} addresses")
        try:
            fsspec.get_filesystem_class(self.protocol)
        except ImportError as error:
            package = PACKAGES[self.protocol]
            raise StoreError(f"{self.name} needs the package {package}: pip install {package}") from error

    def local(self, name: str, expected_bytes: int | None = None, version: str = "") -> Path:
        """Return the path of the cached copy; see `Store.local`."""
        path = self.cache.folder / self._cache_name(name, version)
        try:
            if not is_current(path, expected_bytes):
                self._recall(path.name)
                self.cache.folder.mkdir(parents=True, exist_ok=True)
                with exclusive(beside(path, LOCK)) as lock:
                    # another process may have fetched the file while this one waited
                    if not is_current(path, expected_bytes):
                        self._fetch(name, path, expected_bytes, lock)
        except StoreError as error:
            self._failures.setdefault(path.name, (time.monotonic(), str(error)))
            raise
        except OSError as error:
            raise StoreError(f"cannot use the cache folder {self.cache.folder} ({error}): name another") from error
        self._failures.pop(path.name, None)
        return path

    def read(self, name: str) -> bytes:
        """Return the content of a file, asking the server each time."""
        content: bytes = self._retried(name, lambda: self._filesystem().cat_file(self._address(name)))
        return content

    def exists(self, name: str) -> bool:
        """Return whether the server has the file."""
        # without `strict`, fsspec's http takes a server that fails for a file that is missing
        strict = {"strict": True} if PACKAGES[self.protocol] == "aiohttp" else {}
        return bool(self._retried(name, lambda: self._filesystem().exists(self._address(name), **strict)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the failures behind: another process finds its own."""
        return {**self.__dict__, "_failures": {}}

    def _fetch(self, name: str, path: Path, expected_bytes: int | None, lock: int) -> None:
        """Download a file under its lock; those who wait for the lock read of a failure in it."""
        part = beside(path, PART)
        try:
            make_room(self.cache, expected_bytes or 0, path)
            self._retried(name, lambda: self._download(name, part, expected_bytes))
            part.rename(path)
            make_room(self.cache, 0, path)
        except StoreError as error:
            os.write(lock, str(error).encode())
            raise
        finally:
            part.unlink(missing_ok=True)

    def _download(self, name: str, part: Path, expected_bytes: int | None) -> None:
        """Try once to copy a file; a copy that is too short is an error that another try may fix."""
        progress = fsspec.Callback()
        self._filesystem().get_file(self._address(name), str(part), callback=progress)
        size = part.stat().st_size
        whole = expected_bytes if progress.size is None else progress.size  # what the server said, where it did
        if whole is not None and size < whole:
            raise ConnectionError(f"the download ended after {size:,} of {whole:,} bytes")
        if expected_bytes not in (None, size):
            raise StoreError(
                f"{self._shown(name)} has {size:,} bytes, {expected_bytes:,} in its manifest: the file was replaced or "
                "copied there only in part; copy the shard folder there again"
            )
        if size > self.cache.limit_bytes:
            limit = self.cache.limit_bytes
            log.warning(
                "%s: its %s bytes alone exceed the cache's limit, %s", self._shown(name), f"{size:,}", f"{limit:,}"
            )

    def _retried(self, name: str, attempt: Callable[[], T]) -> T:
        """Return ``attempt()``, tried again after 1, 2, 4 ... first waits if its error may pass."""
        tries = 1
        while True:
            try:
                return attempt()
            except StoreError:
                raise
            except Exception as error:  # s3fs and gcsfs raise types of their own, which may not be installed
                if tries > self.cache.retries or _is_final(error):
                    times = "1 try" if tries == 1 else f"{tries} tries"
                    raise StoreError(f"{self._shown(name)}: {_cause(error)} (after {times})") from error
                wait = self.cache.first_wait * 2 ** (tries - 1)
                log.warning("%s: %s; trying again in %.3g s", self._shown(name), _cause(error), wait)
                time.sleep(wait)
                tries += 1

    def _recall(self, cache_name: str) -> None:
        """Raise again what fetching this file raised a short while ago: the wait is not worth repeating."""
        when, message = self._failures.get(cache_name, (0.0, ""))
        if message and time.monotonic() - when < REMEMBERED:
            raise StoreError(f"{message}; not tried again for {REMEMBERED:.0f} s")
        self._failures.pop(cache_name, None)

    def _filesystem(self) -> Any:  # noqa: ANN401  fsspec ships no types
        return _filesystem(self.protocol, self.cache.timeout, os.getpid())

    def _path(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self._folder, name)).lstrip("/")

    def _address(self, name: str) -> str:
        # the root is an address already, a file's name is not: "a b#1.tar" needs quoting, where addresses are quoted
        quoted = quote(name) if PACKAGES[self.protocol] == "aiohttp" else name
        return f"{self.protocol}://{self._host}/{self._path(quoted)}{self._query}"

    def _shown(self, name: str) -> str:
        return f"{self.protocol}://{self._host.rpartition('@')[2]}/{self._path(name)}"

    def _cache_name(self, name: str, version: str) -> str:
        """Return a name that no other file has: a hash of address and version, then something to read."""
        digest = hashlib.sha256(f"{self._address(name)}\n{version}".encode()).hexdigest()[:20]
        return f"{digest}-{re.sub(r'[^A-Za-z0-9._-]+', '-', self._path(name))[-100:]}"


def open_store(root: str | Path, *parts: str, cache: CacheOptions) -> Store:
    """Return the store of a shard folder.

    Args:
        root: A path, or an address: ``https://host/shards``, ``s3://bucket/x``, ``gs://bucket/x``, ``file:///x``.
        parts: Folders below it.
        cache: Used by remote stores only.

    Raises:
        StoreError: The protocol is unknown or its package is not installed.
    """
    address = ADDRESS.fullmatch(str(root))
    if address is None:
        return LocalStore(Path(root, *parts))
    protocol, rest = address[1].lower(), address[2]
    if protocol == "file":
        return LocalStore(Path("/" + unquote(rest), *parts))
    place, mark, query = rest.partition("?")
    return RemoteStore(f"{protocol}://{'/'.join((place.rstrip('/'), *parts))}{mark}{query}", cache)


def is_remote(root: str | Path) -> bool:
    """Return whether a root is an address of another machine."""
    address = ADDRESS.fullmatch(str(root))
    return address is not None and address[1].lower() != "file"


@functools.cache
def _filesystem(protocol: str, timeout: float, process: int) -> Any:  # noqa: ANN401  fsspec ships no types
    """Return this process's file system.

    Asynchronous instances raise after a fork ("not fork-safe", https://github.com/fsspec/filesystem_spec/issues/835),
    so each process makes its own. The parent's stays referenced here: collected in a child, it would close its
    connections on the parent's event loop.
    """
    silence = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
    options: dict[str, dict[str, Any]] = {
        # no Accept-Encoding: a compressed answer's length would not be the file's; trust_env: proxies and .netrc
        "aiohttp": {"client_kwargs": {"timeout": silence, "trust_env": True, "skip_auto_headers": ["Accept-Encoding"]}},
        "s3fs": {
            # the tries are ours to count, not botocore's
            "config_kwargs": {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        },
        "gcsfs": {"session_kwargs": {"timeout": silence}},
    }
    configured = fsspec.config.conf.get(protocol, {})  # the user's, from FSSPEC_* variables or ~/.config/fsspec
    merged = {key: {**ours, **configured.get(key, {})} for key, ours in options[PACKAGES[protocol]].items()}
    return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **merged)


def _is_final(error: Exception) -> bool:
    """Return whether trying again is pointless."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in PASSING_STATUS
    return isinstance(error, FINAL_ERRORS) or (isinstance(error, OSError) and error.errno in FULL_DISK)


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an error tells of, or None."""
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status
    if type(error) is OSError and str(error).startswith("Forbidden"):
        return 403  # that is all that gcsfs says
    code = str(getattr(error, "code", ""))  # gcsfs's HttpError
    return int(code) if code.isdigit() else None


def _cause(error: Exception) -> str:
    """Say what went wrong and what to do, without the address (it may hold secrets)."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "not found: check the address, and that the shard folder was copied there whole"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"access denied{f' (HTTP {status})' if status else ''}: check the credentials"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"cannot write the cached copy ({error.strerror}): free some space or name another cache folder"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {status} {error.message}"
    if isinstance(error, TimeoutError):
        return "timed out: no connection or no data from the server"
    first_line = str(error).partition("\n")[0]  # a page of HTML may follow
    return f"{type(error).__name__}: {first_line}".rstrip(": ")
