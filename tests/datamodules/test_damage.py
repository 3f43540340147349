"""Damaged shards, indexes, manifests and records: a counted skip or one sentence, never another sample."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from datamodules.cache import StoreError
from datamodules.index import UNCHECKED, Column, index_path
from datamodules.records import Record
from datamodules.shards import SampleError, ShardFolder, StarvedError
from tests.datamodules.shard_factory import make_record, write_shards
from tests.datamodules.test_dataset import dataset, take

Rows = NDArray[np.int64]
RECORD = make_record(0)


def make_folder(tmp_path: Path, *, hashed: bool = False) -> Path:
    """Write a shard of four images with two texts each; without the index's hash it is one of the format before."""
    folder = tmp_path / "toy" / "train"
    write_shards(folder, "texts", map(make_record, range(4)))
    if not hashed:
        edit_manifest(folder, lambda manifest: manifest["shards"][0].pop("index_sha256"))
    return folder


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_rows(folder: Path, edit: Callable[[Rows], Rows | None]) -> None:
    index = index_path(folder / "000000.tar")
    rows = np.load(index)
    changed = edit(rows)
    np.save(index, rows if changed is None else changed)


@pytest.mark.parametrize("column", [Column.IMAGE_OFFSET, Column.TEXT_OFFSET])
def test_a_changed_bit_that_still_decodes_is_a_counted_skip(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, column: Column
) -> None:
    folder = make_folder(tmp_path, hashed=True)
    shard = folder / "000000.tar"
    rows, content = np.load(index_path(shard)), bytearray(shard.read_bytes())
    begin, size = rows[4, column : column + 2].tolist()
    place = begin + (size - 100 if column is Column.IMAGE_OFFSET else content[begin : begin + size].index(b"2a"))
    content[place] ^= 1
    shard.write_bytes(content)
    batch = dataset(folder, tokenizer)[take(*((0, row) for row in range(8)))]
    assert [skip.kind for skip in batch.skipped] == ["damaged sample"] * 2  # both samples of the image
    assert "000000.tar, sample 4: the bytes of" in batch.skipped[0].where


def test_indexes_without_checksums_are_read_as_before(tmp_path: Path) -> None:
    old, new = make_folder(tmp_path / "old"), make_folder(tmp_path / "new")
    index = index_path(old / "000000.tar")
    np.save(index, np.load(index)[:, : Column.CHECK])
    for row in range(8):
        one, other = ShardFolder(old).read(0, row), ShardFolder(new).read(0, row)
        assert (one.sample_id, one.image, one.record) == (other.sample_id, other.image, other.record)


def test_folders_without_an_index_hash_are_read_as_before(tmp_path: Path) -> None:
    old, new = make_folder(tmp_path / "old"), make_folder(tmp_path / "new", hashed=True)
    assert (old / "000000.tar").read_bytes() == (new / "000000.tar").read_bytes()
    for row in range(8):
        one, other = ShardFolder(old).read(0, row), ShardFolder(new).read(0, row)
        assert (one.sample_id, one.image, one.record) == (other.sample_id, other.image, other.record)


@pytest.mark.parametrize("value", [-1, 0, 511, 512, 10**9, 2**62, -(2**63)])
@pytest.mark.parametrize("column", [*Column][:2] + [*Column][4:])
def test_a_wrong_number_in_the_index_is_a_counted_skip(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, column: Column, value: int
) -> None:
    folder = make_folder(tmp_path)

    def edit(rows: Rows) -> None:
        rows[4, column] = value

    if np.load(index_path(folder / "000000.tar"))[4, column] == value:
        return
    if (column, value) == (Column.CHECK, UNCHECKED):  # as in an index of an earlier version
        return
    edit_rows(folder, edit)
    batch = dataset(folder, tokenizer)[take(*((0, row) for row in range(8)))]
    assert "toy/2/2a" not in batch.sample_ids
    assert len(batch) + len(batch.skipped) == 8
    assert len(batch) >= 6  # the row beside it may be doubted, too
    assert {skip.kind for skip in batch.skipped} <= {"wrong index", "damaged shard", "damaged sample"}
    assert "000000.tar, sample 4" in "".join(skip.where for skip in batch.skipped)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 6), (3, 4), (2, 7)])
def test_exchanged_rows_are_noticed_in_old_folders(tmp_path: Path, one: int, other: int) -> None:
    folder = make_folder(tmp_path)

    def exchange(rows: Rows) -> None:
        rows[[one, other]] = rows[[other, one]]

    sound = {row: ShardFolder(folder).read(0, row) for row in range(8)}
    edit_rows(folder, exchange)
    opened = ShardFolder(folder)
    noticed: list[str] = []
    for row in range(8):
        try:
            assert opened.read(0, row).sample_id == sound[row].sample_id
        except SampleError as error:
            noticed.append(error.kind)
    assert set(noticed) == {"wrong index"}
    assert len(noticed) >= (1 if abs(one - other) == 1 else 2)


def test_exchanged_images_of_rows_are_noticed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)

    def exchange(rows: Rows) -> None:
        rows[[0, 4], :2] = rows[[4, 0], :2]

    edit_rows(folder, exchange)
    with pytest.raises(SampleError, match="wrong index: .*sample 0: the index takes 00000 and 00002 for one sample"):
        ShardFolder(folder).read(0, 0)


def test_a_changed_index_is_one_sentence_before_anything_is_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, hashed=True)
    edit_rows(folder, lambda rows: np.ascontiguousarray(rows[::-1]))
    opened = ShardFolder(folder)
    with pytest.raises(StoreError, match=r"000000\.index\.npy is not the index of which manifest\.json has the hash"):
        opened.images(0, np.arange(2))
    with pytest.raises(SampleError, match="not the index"):
        opened.read(0, 0)


@pytest.mark.parametrize(
    "edit", [lambda rows: rows.astype(np.float64), lambda rows: rows.astype(">i8"), np.asfortranarray]
)
def test_an_index_of_another_type_is_named(tmp_path: Path, edit: Callable[[Rows], Rows]) -> None:
    folder = make_folder(tmp_path)
    edit_rows(folder, edit)
    with pytest.raises(ValueError, match=r"000000\.index\.npy holds .*, not int64 by rows"):
        ShardFolder(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, 128, 300, 639])
def test_an_index_truncated_in_use_kills_nobody(tmp_path: Path, keep: int) -> None:
    folder = make_folder(tmp_path)
    used, unused = ShardFolder(folder), ShardFolder(folder)
    used.read(0, 0)
    os.truncate(index_path(folder / "000000.tar"), keep)
    assert used.read(0, 7).sample_id == "toy/3/3b"  # SIGBUS where it is mapped
    with pytest.raises(StoreError, match=r"000000\.index\.npy (is not an index|has \d+ bytes)"):
        unused.images(0, np.arange(8))
    with pytest.raises(ValueError, match=r"000000\.index\.npy (is not an index|has \d+ bytes)"):
        ShardFolder(folder)


def test_a_shard_that_vanishes_is_a_counted_skip(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    opened = ShardFolder(folder)
    (folder / "000000.tar").unlink()
    with pytest.raises(SampleError, match="unreachable shard: .*No such file"):
        opened.read(0, 0)


def test_too_many_open_files_are_no_fault_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ShardFolder(make_folder(tmp_path))

    def refuse(path: Path, flags: int) -> int:
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr("datamodules.shards.os.open", refuse)
    with pytest.raises(StarvedError, match=r"may open no more than \d+ files: raise the limit \(ulimit -n"):
        folder.read(0, 0)


MANIFESTS: list[Callable[[dict[str, Any]], object]] = [
    lambda manifest: manifest.update(samples="8"),
    lambda manifest: manifest.update(classes=[1]),
    lambda manifest: manifest.update(skipped={"x": "y"}),
    lambda manifest: manifest.update(skips=5),
    lambda manifest: manifest.update(source=None),
    lambda manifest: manifest.update(shards=[]),
    lambda manifest: manifest.update(shards={"a": 1}),
    lambda manifest: manifest["shards"][0].update(samples=-1),
    lambda manifest: manifest["shards"][0].update(samples=8.0),
    lambda manifest: manifest["shards"][0].update(bytes=10**30),
    lambda manifest: manifest["shards"][0].update(bytes=True),
    lambda manifest: manifest["shards"][0].update(name=7),
    lambda manifest: manifest["shards"][0].update(name=""),
    lambda manifest: manifest["shards"][0].update(more=1),
]


@pytest.mark.parametrize("edit", MANIFESTS)
def test_a_manifest_with_a_wrong_value_is_named(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    folder = make_folder(tmp_path)
    edit_manifest(folder, edit)
    with pytest.raises(ValueError, match=r"manifest\.json is not a shard manifest"):
        ShardFolder(folder)


def test_a_deeply_nested_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"manifest\.json is not a shard manifest"):
        ShardFolder(tmp_path)


WRONG = [None, 5, 1.5, True, "x", [], [None], [[1]], {}, {"id": 1}, "\ud800", 10**400]


@pytest.mark.parametrize("field", ["image_id", "boxes", "names", "texts", "questions", "vcr", "statements"])
def test_a_wrong_type_in_a_record_is_a_value_error(field: str) -> None:
    raw = json.loads(RECORD.to_json())
    for value in WRONG:
        if type(value) is type(raw[field]) and value in ("x", []):
            continue
        with pytest.raises(ValueError, match=r".+") as caught:
            Record.from_json(json.dumps({**raw, field: value}).encode())
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", ["texts", "questions", "vcr"])
def test_a_wrong_type_in_an_item_is_a_value_error(kind: str) -> None:
    whole = json.loads(RECORD.to_json())
    for field, right in whole[kind][0].items():
        for value in WRONG:
            hidden = value is None and (field == "boxes" or field.endswith("_label"))
            tagged = kind == "vcr" and value == [[1]] and not field.endswith("_label")
            number = field.endswith("_label") and type(value) is int
            if hidden or tagged or number or (type(value) is type(right) and value in ("x", [])):
                continue
            item = {**whole[kind][0], field: value}
            with pytest.raises(ValueError, match=r".+"):
                Record.from_json(json.dumps({**whole, kind: [item]}).encode())


@pytest.mark.parametrize(
    "box", [[0, 0, 1, "1"], [0, 0, 1, None], [0, 0, 1, True], [0, 0, 1, 10**400], "0011", [0, 0, 1]]
)
def test_a_box_of_other_things_than_numbers_is_a_value_error(box: object) -> None:
    raw = json.loads(RECORD.to_json()) | {"boxes": [box]}
    with pytest.raises(ValueError, match=r"box|unpack"):
        Record.from_json(json.dumps(raw).encode())


def test_a_deeply_nested_record_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="recursion"):
        Record.from_json(b"[" * 100_000)
