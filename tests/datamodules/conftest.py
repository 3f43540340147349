"""Shard folders and a tokenizer, made once for all tests that read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from transformers import PreTrainedTokenizerBase

from datamodules.tokenizers import load_tokenizer
from tests.datamodules.shard_factory import make_record, write_shards, write_tokenizer

settings.register_profile("quick", deadline=None, database=None, derandomize=True)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that knows the records' words."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    """The same, opened."""
    return load_tokenizer(str(tokenizer_folder))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT/{texts,questions,vcr}/{train,val}: 30 training images, 11 for validation."""
    root = tmp_path_factory.mktemp("data") / "shards"
    for kind in ("texts", "questions", "vcr"):
        write_shards(root / kind / "train", kind, map(make_record, range(30)))
        write_shards(root / kind / "val", kind, map(make_record, range(100, 111)))
    return root
