"""Shard folders: what is written is read, the same bytes each time, and damage is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import webdataset

from datamodules.index import Column, index_path
from datamodules.records import Question, Record, Text, VCRItem
from datamodules.shards import SampleError, ShardFolder
from datamodules.writer import ShardFolderWriter


def record(number: int, texts: int = 2) -> Record:
    """Return a record with a box and some captions."""
    captions = tuple(Text(f"{number}-{i}", f"caption {i} é", (0,) if i else None) for i in range(texts))
    return Record(f"toy/{number}", ((0.0, 0.25, 0.5, 1.0),), ("red circle",), captions)


def write_folder(folder: Path, records: int = 5, samples_per_shard: int = 4) -> ShardFolder:
    """Write a folder of records with two samples each; the images are only bytes here."""
    with ShardFolderWriter(folder, "toy", "train", "texts", samples_per_shard) as writer:
        for number in range(records):
            writer.write(f"{number:04d}", bytes([number]) * (100 + number), "jpg", record(number))
    return ShardFolder(folder)


def test_every_sample_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "train")
    assert folder.shard_sizes == (4, 4, 2)
    assert len(folder) == folder.manifest.samples == 10
    assert folder.manifest.images == folder.manifest.boxes == folder.manifest.classes["red circle"] == 5
    sample = folder.read(1, 3)
    assert sample.sample_id == "toy/3/3-1"
    assert sample.image == b"\3" * 103
    assert sample.record == record(3)
    assert sample.record.texts[sample.item].text == "caption 1 é"
    assert "000001.tar" in sample.where


def test_every_kind_of_item_survives_json() -> None:
    choices = tuple((("the", (0, 1), "."),)) * 4
    full = Record(
        image_id="x/1",
        boxes=((0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 1.0, 1.0)),
        names=("dog", ""),
        texts=(Text("1", "a dog", ()), Text("2", "a cat", None)),
        questions=(Question("3", "what?", ("a", "b"), "other", "what"),),
        vcr=(VCRItem("4", ("Why", (0,), "?"), choices, 2, choices, None, "colour"),),
    )
    assert Record.from_json(full.to_json()) == full
    assert full.to_json() == Record.from_json(full.to_json()).to_json()
    assert b", " not in full.to_json()


def test_any_webdataset_reader_reads_the_shards(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", samples_per_shard=100)
    samples = list(webdataset.WebDataset(str(tmp_path / "train" / "000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{number:04d}" for number in range(5)]
    assert Record.from_json(samples[2]["json"]) == record(2)


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "a")
    write_folder(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 7
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_pickles_with_open_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "train")
    folder.read(0, 0)
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.read(2, 1) == folder.read(2, 1)
    folder.close()
    assert folder.read(0, 0).record == record(0)


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.shards.OPEN_SHARDS", 2)
    folder = write_folder(tmp_path / "train", records=12, samples_per_shard=2)
    for shard in (*range(12), 0):
        assert folder.read(shard, 1).record.image_id == f"toy/{shard}"
        assert len(folder._open) <= 2


def test_an_error_leaves_the_older_folder_alone(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    before = (tmp_path / "train" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="'0' is written twice"):
        write_key_twice(tmp_path / "train")
    assert (tmp_path / "train" / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_skips_are_counted_and_the_first_hundred_listed(tmp_path: Path) -> None:
    with ShardFolderWriter(tmp_path / "train", "toy", "train", "texts") as writer:
        writer.write("0", b"image", "jpg", record(0))
        for number in range(130):
            writer.skip("no caption", f"image {number}")
        writer.skip("missing image", "image 7")
    manifest = ShardFolder(tmp_path / "train").manifest
    assert manifest.skipped == {"no caption": 130, "missing image": 1}
    assert len(manifest.skips) == 101
    assert manifest.skips[-1] == {"kind": "missing image", "where": "image 7"}


def test_a_split_without_samples_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no sample can be used: 1 x no caption .first: image 1"),
        ShardFolderWriter(tmp_path / "train", "toy", "train", "texts") as writer,
    ):
        writer.skip("no caption", "image 1")
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize(
    ("key", "extension", "texts"), [("a.b", "jpg", 1), ("a", "gif", 1), ("a", "jpg", 0), ("", "jpg", 1)]
)
def test_what_no_reader_could_read_is_refused(tmp_path: Path, key: str, extension: str, texts: int) -> None:
    with (
        pytest.raises(ValueError, match="needed are"),
        ShardFolderWriter(tmp_path / "train", "toy", "train", "texts") as writer,
    ):
        writer.write(key, b"image", extension, record(0, texts))


def write_key_twice(folder: Path) -> None:
    """Do what the writer refuses."""
    with ShardFolderWriter(folder, "toy", "train", "texts") as writer:
        writer.write("0", b"image", "jpg", record(0))
        writer.write("0", b"image", "jpg", record(1))


def test_a_key_is_written_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'0' is written twice"):
        write_key_twice(tmp_path / "train")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest.json not found.*datamodules.prepare"):
        ShardFolder(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "kind": "texts"}', '{"format": 1, "kind": "texts"}'])
def test_a_bad_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is not a shard manifest"):
        ShardFolder(tmp_path)


def test_a_truncated_shard_is_named_when_the_folder_is_opened(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    shard = tmp_path / "train" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"000001.tar has .*truncated"):
        ShardFolder(tmp_path / "train")


@pytest.mark.parametrize("name", ["000001.tar", "000001.index.npy"])
def test_a_missing_file_is_named_when_the_folder_is_opened(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "train")
    (tmp_path / "train" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} not found"):
        ShardFolder(tmp_path / "train")


def test_an_index_of_another_shard_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "train")
    index = index_path(Path(folder.name) / "000000.tar")
    np.save(index, np.load(index)[:3])
    with pytest.raises(ValueError, match=r"000000.index.npy has shape \(3, 9\)"):
        ShardFolder(tmp_path / "train")
    index.write_bytes(b"")
    with pytest.raises(ValueError, match=r"000000.index.npy is not an index"):
        ShardFolder(tmp_path / "train")


def test_a_shard_truncated_while_in_use_is_a_sample_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "train")
    shard = tmp_path / "train" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(SampleError, match="000000.tar, sample 3") as caught:
        folder.read(0, 3)
    assert caught.value.kind == "truncated shard"
    assert pickle.loads(pickle.dumps(caught.value)).where == caught.value.where


@pytest.mark.parametrize("damage", [b"\xff", b"[", b"x"])
def test_a_damaged_record_is_a_sample_error(tmp_path: Path, damage: bytes) -> None:
    folder = write_folder(tmp_path / "train")
    shard = tmp_path / "train" / "000000.tar"
    offset = int(np.load(index_path(shard))[0, Column.TEXT_OFFSET])
    content = bytearray(shard.read_bytes())
    content[offset : offset + 1] = damage
    shard.write_bytes(content)
    with pytest.raises(SampleError, match="bad json"):
        folder.read(0, 0)
    assert folder.read(0, 2).record == record(1)


@pytest.mark.parametrize(("key", "value"), [("boxes", [[0, 1]]), ("texts", [{"id": "1"}]), ("names", None)])
def test_a_record_of_another_shape_is_a_value_error(key: str, value: object) -> None:
    raw = {**json.loads(record(0).to_json()), key: value}
    with pytest.raises(ValueError, match=r"missing|not enough|not iterable"):
        Record.from_json(json.dumps(raw).encode())
