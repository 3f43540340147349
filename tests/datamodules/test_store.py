"""Stores: remote shards come whole and once, a failing server is asked again, the cache keeps its limit."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import Pool
from pathlib import Path
from types import SimpleNamespace

import fsspec  # type: ignore[import-untyped]
import pytest

from datamodules.cache import CacheOptions, StoreError
from datamodules.store import LocalStore, RemoteStore, Store, is_remote, open_store

SPAWN = multiprocessing.get_context("spawn")
SHARD = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves ``files``; each request of a path first takes the next of its ``faults``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/shards/coco/0.tar": SHARD}
        self.faults: dict[str, list[str]] = {}
        self.requests: Counter[str] = Counter()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.root = f"http://127.0.0.1:{self.server_port}/shards"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802  http.server's name
        self.server.requests[self.path] += 1
        faults = self.server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else ""
        content = self.server.files.get(self.path.partition("?")[0])
        if fault.isdigit() or content is None:
            self.send_error(int(fault or 404))
            return
        if fault == "silence":
            self.server.go_on.wait(5)
            return
        self.send_response(200)
        if "without length" not in fault:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if "pause" in fault:
            self.wfile.flush()
            self.server.begun.set()
            self.server.go_on.wait(20)
        if "cut" not in fault:
            self.wfile.write(content[half:])

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.go_on.set()
        server.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> CacheOptions:
    return CacheOptions(tmp_path / "cache", limit_bytes=10**6, retries=3, first_wait=0.001, timeout=5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of our own: sleeping only moves it; ``waits`` lists the sleeps."""
    clock = SimpleNamespace(now=0.0, waits=[])
    clock.monotonic = lambda: clock.now
    clock.sleep = clock.waits.append
    monkeypatch.setattr("datamodules.store.time", clock)
    return clock


def coco(server: Server, cache: CacheOptions) -> RemoteStore:
    store = open_store(server.root, "coco", cache=cache)
    assert isinstance(store, RemoteStore)
    return store


def fetch(store: Store) -> bytes | str:
    """Return the shard's content or the error; for another process."""
    try:
        return store.local("0.tar", len(SHARD)).read_bytes()
    except StoreError as error:
        return str(error)


def test_a_local_folder_is_used_where_it_lies(tmp_path: Path, cache: CacheOptions) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "0.tar").write_bytes(b"tar")
    for root in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        store = open_store(root, "coco", cache=cache)
        assert isinstance(store, LocalStore)
        assert store.name == str(tmp_path / "coco")
        assert store.local("../0.tar").samefile(tmp_path / "0.tar")
        assert store.read("../0.tar") == b"tar"
        assert (store.exists("../0.tar"), store.exists("0.tar")) == (True, False)
        with pytest.raises(FileNotFoundError, match=r"coco/0.tar"):
            store.local("0.tar")
    assert not cache.folder.exists()


def test_a_file_is_downloaded_once(server: Server, cache: CacheOptions) -> None:
    store = coco(server, cache)
    path = store.local("0.tar", len(SHARD))
    assert path.read_bytes() == SHARD
    assert path.name.endswith("-shards-coco-0.tar")
    assert coco(server, cache).local("0.tar") == path
    assert store.local("../coco/0.tar") == path
    assert server.requests == {"/shards/coco/0.tar": 1}
    assert list(cache.folder.iterdir()) == [path]


@pytest.mark.parametrize("fault", ["503", "500", "429", "408", "cut", "cut without length"])
def test_what_may_pass_is_tried_again_after_growing_waits(
    server: Server, cache: CacheOptions, clock: SimpleNamespace, fault: str
) -> None:
    server.faults["/shards/coco/0.tar"] = [fault] * 3
    path = coco(server, cache).local("0.tar", len(SHARD))
    assert path.read_bytes() == SHARD
    assert clock.waits == [0.001, 0.002, 0.004]
    assert server.requests["/shards/coco/0.tar"] == 4


def test_a_silent_server_is_tried_again(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.faults["/shards/coco/0.tar"] = ["silence"]
    store = coco(server, CacheOptions(tmp_path / "c", 10**6, retries=1, first_wait=0, timeout=0.2))
    assert store.local("0.tar").read_bytes() == SHARD
    assert "0.tar: timed out: no connection or no data from the server; trying again" in caplog.text


def test_after_the_last_try_the_failure_is_reported_and_remembered(
    server: Server, cache: CacheOptions, clock: SimpleNamespace
) -> None:
    server.faults["/shards/coco/0.tar"] = ["503"] * 4
    store = coco(server, cache)
    with pytest.raises(StoreError, match=rf"{server.root}/coco/0.tar: HTTP 503 .*after 4 tries"):
        store.local("0.tar", len(SHARD))
    clock.now = 59
    for _ in range(1000):
        with pytest.raises(StoreError, match=r"after 4 tries.*not tried again for 60 s"):
            store.local("0.tar", len(SHARD))
    assert len(clock.waits) == 3
    assert server.requests["/shards/coco/0.tar"] == 4
    assert pickle.loads(pickle.dumps(store)).local("0.tar").read_bytes() == SHARD
    next(cache.folder.iterdir()).unlink()
    clock.now = 61
    assert store.local("0.tar").read_bytes() == SHARD


def test_a_server_that_is_not_there_is_reported(cache: CacheOptions) -> None:
    with Server() as closed:
        root = closed.root
    with pytest.raises(StoreError, match=rf"{root}/0.tar: ClientConnectorError: .*after 4 tries"):
        open_store(root, cache=cache).local("0.tar")


@pytest.mark.parametrize(("status", "told"), [("404", "not found"), ("403", "access denied"), ("410", "HTTP 410")])
def test_what_stays_is_reported_at_once(
    server: Server, cache: CacheOptions, clock: SimpleNamespace, status: str, told: str
) -> None:
    server.faults["/shards/coco/0.tar"] = [status]
    with pytest.raises(StoreError, match=rf"coco/0.tar: {told}.*after 1 try"):
        coco(server, cache).local("0.tar")
    assert clock.waits == []
    assert list(cache.folder.iterdir()) == []


def test_another_size_than_the_manifests_is_refused(server: Server, cache: CacheOptions) -> None:
    store = coco(server, cache)
    with pytest.raises(StoreError, match=r"0.tar has 102,400 bytes, 102,401 in its manifest"):
        store.local("0.tar", len(SHARD) + 1)
    assert server.requests["/shards/coco/0.tar"] == 1
    assert list(cache.folder.iterdir()) == []


def test_a_changed_file_is_fetched_again(server: Server, cache: CacheOptions) -> None:
    store = coco(server, cache)
    assert store.local("0.tar", len(SHARD), version="a").read_bytes() == SHARD
    server.files["/shards/coco/0.tar"] = longer = SHARD + b"!"
    assert store.local("0.tar", len(longer), version="a").read_bytes() == longer
    server.files["/shards/coco/0.tar"] = other = longer[::-1]
    assert store.local("0.tar", len(other), version="a").read_bytes() == longer  # nothing says that it changed
    assert store.local("0.tar", len(other), version="b").read_bytes() == other
    server.files["/shards/coco/0.tar"] = b"now"
    assert store.read("0.tar") == b"now"


def test_reading_and_looking_are_tried_again(server: Server, cache: CacheOptions) -> None:
    store = coco(server, cache)
    for ask, answer in ((store.read, SHARD), (store.exists, True)):
        server.faults["/shards/coco/0.tar"] = ["503", "503"]
        assert ask("0.tar") == answer
    assert not store.exists("1.tar")
    assert server.requests["/shards/coco/1.tar"] == 1
    server.faults["/shards/coco/0.tar"] = ["503"] * 4
    with pytest.raises(StoreError, match=r"HTTP 503"):
        store.exists("0.tar")


def hundred_bytes(server: Server, cache: CacheOptions, limit_bytes: int) -> tuple[Store, CacheOptions]:
    """Serve files a to d of 100 bytes."""
    server.files |= {f"/shards/{name}": name.encode() * 100 for name in "abcd"}
    cache = CacheOptions(cache.folder, limit_bytes)
    return open_store(server.root, cache=cache), cache


def test_the_files_used_longest_ago_are_evicted(server: Server, cache: CacheOptions) -> None:
    store, _ = hundred_bytes(server, cache, limit_bytes=250)
    cache.folder.mkdir()
    (cache.folder / "somebody's.tar").write_bytes(bytes(1000))
    for name in "abac":
        store.local(name)
        time.sleep(0.02)  # the clock of file times is coarse
    assert {path.name[-1] for path in cache.folder.iterdir() if path.stat().st_size == 100} == {"a", "c"}
    assert (cache.folder / "somebody's.tar").exists()
    store.local("b")
    assert server.requests["/shards/b"] == 2


def test_an_evicted_file_stays_readable_where_it_is_open(server: Server, cache: CacheOptions) -> None:
    store, _ = hundred_bytes(server, cache, limit_bytes=100)
    with store.opened("a", Path.open) as file:
        path = store.local("b")
        assert list(cache.folder.iterdir()) == [path]
        assert file.read() == "a" * 100


def test_a_file_evicted_before_it_is_opened_is_fetched_again(server: Server, cache: CacheOptions) -> None:
    store, _ = hundred_bytes(server, cache, limit_bytes=100)
    evictions = iter("bc")

    def open_late(path: Path) -> bytes:
        for name in evictions:
            store.local(name)
            break
        return path.read_bytes()

    assert store.opened("a", open_late) == b"a" * 100
    assert server.requests["/shards/a"] == 3

    def open_too_late(path: Path) -> bytes:
        path.unlink()
        return path.read_bytes()

    with pytest.raises(StoreError, match=r"evicted each time.*raise the cache's limit"):
        store.opened("a", open_too_late)
    with pytest.raises(FileNotFoundError, match="another"):
        store.opened("a", lambda path: path.with_name("another").read_bytes())


def test_the_file_just_fetched_is_kept_though_it_exceeds_the_limit(
    server: Server, cache: CacheOptions, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = hundred_bytes(server, cache, limit_bytes=99)
    for name in "ab":
        path = store.local(name, 100)
        assert list(cache.folder.iterdir()) == [path]
    assert "/shards/b: its 100 bytes alone exceed the cache's limit, 99" in caplog.text


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; a broken store must not hang the tests."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waiting() -> int:
    """Return how many child processes hold the lock or wait for it."""
    count = 0
    for process in multiprocessing.active_children():
        for file in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                count += ".lock" in os.readlink(file)
    return count


def fetch_in(pool: Pool, store: Store, server: Server) -> list[bytes | str]:
    """Fetch in three processes, all of which ask while the first request is under way."""
    results = [pool.apply_async(fetch, (store,)) for _ in range(3)]
    assert server.begun.wait(10)
    until(lambda: waiting() == 3)
    server.go_on.set()
    return [result.get(10) for result in results]


def test_processes_that_want_one_file_download_it_once(server: Server, cache: CacheOptions) -> None:
    server.faults["/shards/coco/0.tar"] = ["pause"]
    with SPAWN.Pool(3) as pool:
        assert fetch_in(pool, coco(server, cache), server) == [SHARD] * 3
        assert server.requests["/shards/coco/0.tar"] == 1
        # a failure that one process has waited for is the others' too
        next(cache.folder.iterdir()).unlink()
        server.begun.clear()
        server.go_on.clear()
        server.faults["/shards/coco/0.tar"] = ["pause cut", "503", "503", "503"]
        told = fetch_in(pool, coco(server, cache), server)
    assert len(set(told)) == 1
    assert "after 4 tries" in str(told[0])
    assert server.requests["/shards/coco/0.tar"] == 5
    assert list(cache.folder.iterdir()) == []


def test_a_killed_process_blocks_nobody(server: Server, cache: CacheOptions) -> None:
    store = coco(server, cache)
    server.files["/shards/coco/1.tar"] = b"other"
    for again in ("0.tar", "1.tar"):  # the killed process's own file, and another
        server.faults["/shards/coco/0.tar"] = ["pause"]
        server.begun.clear()
        process = SPAWN.Process(target=fetch, args=(store,))
        process.start()
        assert server.begun.wait(10)
        until(lambda: any(path.stat().st_size for path in cache.folder.glob("*.part")))
        process.kill()
        process.join()
        assert len(list(cache.folder.glob("*0.tar.*"))) == 2  # .part and .lock
        assert store.local(again).read_bytes() == server.files[f"/shards/coco/{again}"]
        assert list(cache.folder.glob("*.tar.*")) == []
        assert len(list(cache.folder.iterdir())) == 1
        store.local(again).unlink()


def test_a_store_works_on_both_sides_of_a_fork(server: Server, cache: CacheOptions) -> None:
    store, _ = hundred_bytes(server, cache, limit_bytes=1000)
    store.local("a")
    process = multiprocessing.get_context("fork").Process(target=store.local, args=("b",))
    process.start()
    process.join(20)
    process.kill()  # if it hangs
    assert process.exitcode == 0
    assert store.local("b").read_bytes() == b"b" * 100
    assert store.local("c").read_bytes() == b"c" * 100
    assert server.requests["/shards/b"] == 1


def test_addresses_are_quoted_and_secrets_kept(server: Server, cache: CacheOptions) -> None:
    server.files["/shards/a%20b%231.tar"] = b"spaced"
    root = server.root.replace("http://", "http://me:word@")
    store = open_store(f"{root}/?token=secret", cache=cache)
    path = store.local("a b#1.tar")
    assert path.read_bytes() == b"spaced"
    assert server.requests == {"/shards/a%20b%231.tar?token=secret": 1}
    assert open_store(f"{root}?token=other", cache=cache).local("a b#1.tar") != path
    server.faults["/shards/0.tar?token=secret"] = ["403", "500", "500", "500", "500"]
    for name in ("0.tar", "00.tar"):
        with pytest.raises(StoreError, match="shards/0") as caught:
            store.local(name)
        assert not any(secret in f"{caught.value} {store.name} {path}" for secret in ("word", "secret", "me:"))


def test_an_address_given_as_a_path_is_an_address(cache: CacheOptions) -> None:
    assert open_store(Path("https://host/a"), "b", cache=cache).name == "https://host/a/b"
    assert is_remote(Path("https://host/a"))
    assert not any(is_remote(root) for root in ("/host/a", "a", "file:///host/a", Path("C:/a")))


@pytest.mark.parametrize(("root", "package"), [("s3://bucket/x", "s3fs"), ("gs://bucket/x", "gcsfs")])
def test_a_missing_package_is_named(
    cache: CacheOptions, monkeypatch: pytest.MonkeyPatch, root: str, package: str
) -> None:
    def missing(protocol: str) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(StoreError, match=rf"{root} needs the package {package}: pip install {package}"):
        open_store(root, cache=cache)


def test_an_unknown_protocol_is_named(cache: CacheOptions) -> None:
    with pytest.raises(StoreError, match=r"ftp://host/x: shards are read from folders and from http, https, s3, gs"):
        open_store("ftp://host/x", cache=cache)


class CloudError(Exception):
    """Like gcsfs's HttpError."""

    def __init__(self, code: int) -> None:
        super().__init__(f"cloud says {code}")
        self.code = code


@pytest.mark.parametrize(
    ("error", "tries", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot write the cached copy .No space left"),
        (CloudError(401), 1, "access denied .HTTP 401.: check the credentials"),
        (CloudError(503), 4, "CloudError: cloud says 503"),
        (PermissionError("Forbidden"), 1, "access denied: check the credentials"),
        (OSError("Forbidden: b/bucket/o\n<html>"), 1, "access denied .HTTP 403.: check the credentials .after"),
        (OSError("Strange\n<html>"), 4, "OSError: Strange .after"),
        (RuntimeError("of a package's own"), 4, "RuntimeError: of a package's own"),
    ],
)
def test_errors_of_other_kinds(
    cache: CacheOptions, monkeypatch: pytest.MonkeyPatch, error: Exception, tries: int, told: str
) -> None:
    asked: list[str] = []

    def get_file(address: str, path: str, callback: object) -> None:
        asked.append(address)
        raise error

    monkeypatch.setattr("datamodules.store._filesystem", lambda *_: SimpleNamespace(get_file=get_file))
    with pytest.raises(StoreError, match=f"http://host/x/0.tar: {told}"):
        open_store("http://host/x", cache=cache).local("0.tar")
    assert asked == ["http://host/x/0.tar"] * tries


def test_a_cache_folder_that_cannot_be_used_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot use the cache folder .*file.*name another"):
        coco(server, CacheOptions(tmp_path / "file" / "cache", 1)).local("0.tar")


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit_bytes and timeout must be positive"):
        CacheOptions(tmp_path, 0)
