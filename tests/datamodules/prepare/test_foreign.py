"""Foreign tars: read once, left where they are, and every sample that cannot be used is counted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import webdataset

from datamodules.index import Column
from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.prepare.conceptual_captions import Dataset
from datamodules.shards import SampleError, ShardFolder, image_numbers
from tests.datamodules.prepare.raw_files import picture

TRAIN = Options(splits=("train",))
NAME = "conceptual_captions"


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of named files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_tar(path: Path, samples: Iterable[tuple[str, bytes, str]]) -> None:
    """Write samples as img2dataset and pixparse do, by webdataset's writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        for key, image, caption in samples:
            described = {"caption": caption, "key": key, "status": "success", "width": 40}
            tar.write({"__key__": key, "jpg": image, "txt": caption, "json": described})


def test_tars_are_indexed_where_they_are(tmp_path: Path) -> None:
    tars = [
        tmp_path / "raw" / f"cc3m-{split}-000{n}.tar" for split, n in (("train", 0), ("train", 1), ("validation", 0))
    ]
    for number, tar in enumerate(tars):
        write_tar(tar, [(f"{number}{k:08d}", picture(10 * number + k), f" a dog\n{number}{k} é") for k in range(3)])
    before = [(tar.read_bytes(), tar.stat().st_mtime_ns) for tar in tars]
    convert(NAME, tmp_path / "raw", tmp_path / "out")
    train, val = (ShardFolder(tmp_path / "out" / NAME / split) for split in ("train", "val"))
    assert (train.shard_sizes, val.shard_sizes) == ((3, 3), (3,))
    for number, (folder, shard) in enumerate(((train, 0), (train, 1), (val, 0))):
        for row in range(3):
            sample = folder.read(shard, row)
            assert sample.sample_id == f"{NAME}/{number}{row:08d}/0"
            assert sample.image == picture(10 * number + row)
            assert [text.text for text in sample.record.texts] == [f"a dog {number}{row} é"]
    assert [(tar.read_bytes(), tar.stat().st_mtime_ns) for tar in tars] == before
    manifest = train.manifest
    assert (manifest.layout, manifest.images, manifest.samples, manifest.boxes) == ("captions", 6, 6, 0)
    assert [entry.name for entry in manifest.shards] == [f"../../../raw/{tar.name}" for tar in tars[:2]]
    assert [entry.sha256 for entry in manifest.shards] == [hashlib.sha256(data).hexdigest() for data, _ in before[:2]]
    assert [entry.bytes for entry in manifest.shards] == [len(data) for data, _ in before[:2]]
    names = {"cc3m-train-0000.index.npy", "cc3m-train-0001.index.npy", "manifest.json"}
    assert {path.name for path in Path(train.name).iterdir()} == names


def test_the_index_numbers_images_as_all_indexes_do(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", [(key, picture(), "a dog") for key in ("a", "b")])
    convert("sbu", tmp_path, tmp_path / "out", TRAIN)
    folder = ShardFolder(tmp_path / "out" / "sbu" / "train")
    expected = [
        int.from_bytes(hashlib.blake2b(f"sbu/{key}".encode(), digest_size=8).digest(), "little", signed=True)
        for key in ("a", "b")
    ]
    assert image_numbers([folder], np.array([[0, 0, 0], [0, 0, 1]])).tolist() == expected
    rows = np.load(Path(folder.name) / "00000.index.npy")
    assert rows[:, [Column.RIGHT_BYTES, Column.ITEM]].tolist() == [[0, 0], [0, 0]]


def test_samples_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    jpg = picture()
    members = [
        ("good.jpg", jpg),
        ("good.json", b"{}"),
        ("good.txt", b"a dog"),
        ("only_json.jpg", jpg),
        ("only_json.json", b'{"caption": "a dog"}'),
        ("no_image.txt", b"a dog"),
        ("empty_image.jpg", b""),
        ("empty_image.txt", b"a dog"),
        ("blank.jpg", jpg),
        ("blank.txt", b" \n"),
        ("latin.jpg", jpg),
        ("latin.txt", "é".encode("latin-1")),
        ("twice.jpg", jpg),
        ("twice.txt", b"a dog"),
        ("twice.txt", b"a cat"),
        (".hidden.jpg", jpg),
        (".hidden.txt", b"a dog"),
        (f"{'long' * 30}.jpg", jpg),
        (f"{'long' * 30}.txt", b"a dog"),
        ("./v1.0/dots.jpg", jpg),
        ("./v1.0/dots.txt", b"a dog"),
        ("also_good.txt", b"a cat"),
        ("also_good.PNG", picture(file_format="PNG")),
    ]
    write_members(tmp_path / "00000.tar", members)
    write_members(tmp_path / "00001.tar", [("none.jpg", jpg)])
    convert("sbu", tmp_path, tmp_path / "out", TRAIN)
    folder = ShardFolder(tmp_path / "out" / "sbu" / "train")
    ids = [folder.read(0, row).record.image_id for row in range(3)]
    assert ids == ["sbu/good", "sbu/v1.0/dots", "sbu/also_good"]
    assert folder.read(0, 2).image == picture(file_format="PNG")
    assert folder.shard_sizes == (3,)
    assert folder.manifest.skipped == {
        "no caption text": 2,
        "no image": 2,
        "empty caption": 1,
        "caption without UTF-8": 1,
        "key twice": 1,
        "bad key": 1,
        "name too long for its tar header": 1,
    }
    listed = [json.loads(line) for line in (Path(folder.name) / "skips.jsonl").read_text().splitlines()]
    assert listed[0] == {
        "kind": "no caption text",
        "where": "00000.tar, only_json: there is no KEY.txt, but only_json.json",
    }
    assert len(listed) == 9


def test_a_damaged_header_is_a_counted_skip_of_the_stream(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", [(str(key), picture(key), "a dog") for key in range(3)])
    convert("sbu", tmp_path, tmp_path / "out", TRAIN)
    folder = ShardFolder(tmp_path / "out" / "sbu" / "train")
    offset = int(np.load(Path(folder.name) / "00000.index.npy")[1, 0])
    with (tmp_path / "00000.tar").open("r+b") as file:
        file.seek(offset - 512)
        file.write(bytes(range(100, 200)))
    assert folder.read(0, 0).sample_id == "sbu/0/0"
    with pytest.raises(SampleError, match="damaged shard"):
        folder.read(0, 1)


def test_raw_files_are_never_replaced_by_shards(tmp_path: Path) -> None:
    """The tars lie where the split's folder would be."""
    tar = tmp_path / "sbu" / "train" / "00000.tar"
    tar.parent.mkdir(parents=True)
    write_tar(tar, [("1", picture(1), "a dog")])
    before = tar.read_bytes()
    for force in (False, True):
        with pytest.raises(ValueError, match="is in the way"):
            convert("sbu", tmp_path / "sbu", tmp_path, Options(splits=("train",), force=force))
    (tar.parent / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="00000.tar in it is to be read"):
        convert("sbu", tmp_path / "sbu", tmp_path, Options(splits=("train",), force=True))
    assert tar.read_bytes() == before


@pytest.mark.parametrize("damage", ["within a member", "between two members", "garbage within", "gzip", "empty"])
def test_a_damaged_tar_is_left_out_whole_and_reported(tmp_path: Path, damage: str) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}{key}", picture(key), "a dog") for key in range(3)])
    path = tmp_path / "1.tar"
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    data = path.read_bytes()
    damaged = {
        "within a member": data[: headers[4] + 700],
        "between two members": data[: headers[4]],
        "garbage within": data[: headers[4]] + b"x" * 512 + data[headers[4] + 512 :],
        "gzip": b"\x1f\x8b" + data,
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    convert("sbu", tmp_path, tmp_path / "out", TRAIN)
    folder = ShardFolder(tmp_path / "out" / "sbu" / "train")
    assert folder.shard_sizes == (3,)
    assert folder.manifest.skipped == {"truncated or damaged tar": 1}
    assert folder.manifest.skips[0]["where"].startswith("1.tar: ")
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="no sample can be used: 2 x truncated or damaged tar"):
        convert("sbu", tmp_path, tmp_path / "out", TRAIN)


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train/1.tar", "train/0.tar", "2.tar"], "train", ["train/0.tar", "train/1.tar"]),
        (["cc3m-train-0.tar", "cc3m-validation-0.tar"], "train", ["cc3m-train-0.tar"]),
        (["cc3m-train-0.tar", "cc3m-validation-0.tar"], "val", ["cc3m-validation-0.tar"]),
        (["00000.tar", "00001.tar", "00000.parquet"], "train", ["00000.tar", "00001.tar"]),
        (["00000.tar", "validation.tar", "test.tar"], "train", ["00000.tar"]),
        (["00000.tar"], "val", []),
        (["validation.tar"], "train", []),
    ],
)
def test_a_splits_tars_are_found(tmp_path: Path, names: list[str], split: str, found: list[str]) -> None:
    for name in names:
        write_members(tmp_path / name, [])
    dataset = Dataset(tmp_path)
    if found:
        assert [str(path.relative_to(tmp_path)) for path in dataset.tars(split)] == found
    else:
        with pytest.raises(FileNotFoundError, match=rf"no tars for {split}: none of {split}/\*\.tar"):
            dataset.tars(split)


def test_a_pattern_names_the_tars(tmp_path: Path) -> None:
    for name in ("a/part-train.tar", "b/part-train.tar", "a/other-train.tar", "a/part-val.tar"):
        write_members(tmp_path / name, [])
    assert Dataset(tmp_path, "a/part-{split}.tar").tars("val") == [tmp_path / "a" / "part-val.tar"]
    with pytest.raises(ValueError, match=r"b/part-train\.tar have one name"):
        Dataset(tmp_path, "*/part-{split}.tar").tars("train")


def test_without_validation_tars_only_training_is_converted(tmp_path: Path) -> None:
    write_tar(tmp_path / "raw" / "00000.tar", [("a", picture(), "a dog")])
    convert("sbu", tmp_path / "raw", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "sbu").iterdir()] == ["train"]
    with pytest.raises(FileNotFoundError, match="no tars for val"):
        convert("sbu", tmp_path / "raw", tmp_path / "out", Options(splits=("train", "val")))


def test_links_are_followed_where_the_kernel_follows_them(tmp_path: Path) -> None:
    """A hub's cache holds links to files of other names; a data folder may be a link to another disk."""
    write_tar(tmp_path / "blobs" / "5f3a", [("a", picture(), "a dog")])
    (tmp_path / "hub" / "deep").mkdir(parents=True)
    (tmp_path / "hub" / "deep" / "00000.tar").symlink_to(tmp_path / "blobs" / "5f3a")
    (tmp_path / "disk" / "very" / "far").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "very" / "far")
    convert("sbu", tmp_path / "hub" / "deep", tmp_path / "out", TRAIN)
    assert ShardFolder(tmp_path / "out" / "sbu" / "train").read(0, 0).image == picture()


def test_the_same_bytes_with_any_number_of_workers_and_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        write_tar(tmp_path / "raw" / f"{number}.tar", [(f"{number}_{k}", picture(k), "a dog" * k) for k in range(4)])
    for workers in (1, 4):
        convert("sbu", tmp_path / "raw", tmp_path / str(workers), Options(splits=("train",), workers=workers))
    first, second = (sorted((tmp_path / name / "sbu" / "train").iterdir()) for name in "14")
    assert len(first) == 22
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    monkeypatch.setattr("datamodules.prepare.foreign.scan_tar", None)
    convert("sbu", tmp_path / "raw", tmp_path / "1")
    assert "already converted" in capsys.readouterr().out


def test_a_changed_tar_is_read_again(tmp_path: Path) -> None:
    write_tar(tmp_path / "raw" / "0.tar", [("a", picture(), "a dog")])
    convert("sbu", tmp_path / "raw", tmp_path / "out")
    write_tar(tmp_path / "raw" / "0.tar", [(key, picture(), "a dog") for key in ("a", *map(str, range(9)))])
    convert("sbu", tmp_path / "raw", tmp_path / "out")
    assert len(ShardFolder(tmp_path / "out" / "sbu" / "train")) == 10


@pytest.mark.parametrize("option", ["--longest-side 10", "--quality 50", "--limit 3", "--samples-per-shard 2"])
def test_options_that_change_bytes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    write_tar(tmp_path / "0.tar", [("a", picture(), "a dog")])
    with pytest.raises(SystemExit) as caught:
        main(f"sbu --src {tmp_path} --out {tmp_path}/out {option}".split())
    assert caught.value.code == 2
    assert f"{option.split()[0]}: these tars are taken as they are" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "out")
