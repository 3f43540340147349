"""Training data at an address: the same micro-batches as from disk, through a server that fails now and then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import base
from datamodules.cache import CacheOptions, StoreError
from datamodules.pretrain import PretrainDataModule
from tests.datamodules.shard_factory import make_record, write_shards
from tests.datamodules.test_base import options
from tests.datamodules.test_store import Server
from vle_lightning.batch import PretrainBatch


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two splits of four and one shards."""
    for split, count in (("train", 16), ("val", 4)):
        write_shards(tmp_path / "shards" / "coco" / split, "texts", map(make_record, range(count)))
    return tmp_path / "shards"


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the shards; waits between tries are short."""
    monkeypatch.setattr(base, "CacheOptions", lambda folder, limit: CacheOptions(folder, limit, 3, 0.001))
    with Server() as server:
        server.files = {f"/shards/{path.relative_to(shards)}": path.read_bytes() for path in shards.rglob("*.*")}
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def opened(root: str, tokenizer_folder: Path, cache: Path, **changes: object) -> PretrainDataModule:
    chosen: dict[str, Any] = {
        "root": root,
        "sources": {"coco": 1.0},
        "patch_size": 8,
        "cache_dir": str(cache),
        **changes,
    }
    module = PretrainDataModule(**options(Path(), tokenizer_folder, **chosen))
    module.setup("fit")
    return module


def batches(module: PretrainDataModule) -> list[PretrainBatch]:
    """Return an epoch, and validation."""
    found = [*module.train_dataloader(), *module.val_dataloader()]
    module.teardown("fit")
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_the_same_micro_batches(
    workers: int, server: Server, shards: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    server.faults = {path: ["503", "cut"] for path in list(server.files)[::2]}
    local = batches(opened(str(shards), tokenizer_folder, tmp_path / "unused"))
    remote = batches(opened(server.root, tokenizer_folder, tmp_path / "cache", workers=workers))
    assert not (tmp_path / "unused").exists()
    assert len(remote) == len(local) == 8 + 2
    for expected, actual in zip(local, remote, strict=True):
        assert actual.sample_ids == expected.sample_ids
        assert not actual.skipped
        assert torch.equal(actual.pixel_values, expected.pixel_values)
        assert torch.equal(actual.masked_input_ids, expected.masked_input_ids)


def test_a_shard_that_cannot_be_fetched_is_a_counted_skip(
    server: Server, tokenizer_folder: Path, tmp_path: Path
) -> None:
    gone = next(path for path in server.files if path.endswith("train/000000.tar"))
    module = opened(server.root, tokenizer_folder, tmp_path / "cache")
    server.faults[gone] = ["503"] * 100
    skips = [skip for batch in batches(module) for skip in batch.skipped]
    assert {skip.kind for skip in skips} == {"unreachable shard"}
    assert len(skips) == 8
    assert all(gone in skip.where for skip in skips)
    assert server.requests[gone] == 4  # one try and three more, for all eight samples


def test_an_index_that_cannot_be_fetched_ends_the_run(server: Server, tokenizer_folder: Path, tmp_path: Path) -> None:
    module = opened(server.root, tokenizer_folder, tmp_path / "cache")
    gone = next(path for path in server.files if path.endswith("train/000000.index.npy"))
    del server.files[gone]
    with pytest.raises(StoreError, match="000000.index.npy: not found"):
        batches(module)


def test_a_split_that_is_not_there_is_named_before_anything_runs(
    server: Server, tokenizer_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="shards/coco/nowhere/manifest.json: not found"):
        opened(server.root, tokenizer_folder, tmp_path / "cache", train_split="nowhere")
