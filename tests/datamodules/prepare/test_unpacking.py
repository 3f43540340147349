"""Archives and files that claim or unpack to more than they should: bounded in memory, counted or named."""

from __future__ import annotations

import json
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from datamodules import pictures
from datamodules.prepare import Options, convert, rows
from datamodules.prepare.__main__ import main
from datamodules.prepare.images import Archive, ZipArchive
from datamodules.prepare.tar_scan import scan_tar
from datamodules.prepare.unpacking import LZMA_STEP
from datamodules.shards import SampleError
from tests.datamodules.prepare.raw_files import picture, records_of, skipped, write_images, write_json, write_lines
from tests.datamodules.prepare.test_coco import write_coco
from tests.datamodules.prepare.test_images import write_tar

TRAIN = Options(splits=("train",))
MEMBER_TYPES = {"file": b"0", "long name": b"L", "long link": b"K", "pax": b"x", "global pax": b"g", "sparse": b"S"}
PACKED = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def write_lying_zip(path: Path, compression: int, size: int, claimed: int) -> None:
    """Write a zip of zeros whose directory gives another size."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.jpg", bytes(size))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", claimed)))


@pytest.mark.parametrize("compression", PACKED[1:])
def test_a_zip_that_is_wrong_about_its_sizes_unpacks_no_more_than_it_says(compression: int, tmp_path: Path) -> None:
    size, bound = (96 * 2**20, 3 * 7000 * LZMA_STEP) if compression == zipfile.ZIP_LZMA else (2**25, 2**24)
    write_lying_zip(tmp_path / "images.zip", compression, size, 1000)
    archive = ZipArchive(tmp_path / "images.zip")
    tracemalloc.start()
    try:
        with pytest.raises(SampleError, match=r"unreadable image: a\.jpg in images\.zip: Bad CRC"):
            archive.read("a.jpg")
        assert tracemalloc.get_traced_memory()[1] < bound < size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", PACKED)
def test_members_of_every_size_are_read_whole(compression: int, tmp_path: Path) -> None:
    contents = {"a": b"", "b": b"x", "c": bytes(range(256)) * 9000, "d": picture()}
    with zipfile.ZipFile(tmp_path / "images.zip", "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    place = ZipArchive(tmp_path / "images.zip")
    assert {name: place.read(name) for name in contents} == contents


def test_members_larger_than_a_picture_may_be_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(1001))
    write_tar(tmp_path / "images.tar", "a" * 240 + ".jpg")
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(SampleError, match=r"unreadable image: a\.jpg: 1,001 bytes, more than 1,000"):
        ZipArchive(tmp_path / "images.zip").read("a.jpg")
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    with pytest.raises(SampleError, match="244 bytes, more than 100"):
        Archive(tmp_path / "images.tar").read("a" * 240 + ".jpg")


def outcome(path: Path) -> bytes | str | None:
    """Read a.jpg from a zip; returns it, the kind of a skip, or how the message about the whole zip begins."""
    try:
        return ZipArchive(path).read("a.jpg")
    except SampleError as error:
        return error.kind
    except ValueError as error:
        return " ".join(str(error).split()[:2])


@pytest.mark.parametrize("compression", PACKED)
def test_whatever_is_damaged_in_a_zip_the_member_is_counted_or_the_zip_named(compression: int, tmp_path: Path) -> None:
    path, content = tmp_path / "images.zip", b"a picture, a picture"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.jpg", content)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 0xFF,)) + whole[place + 1 :])
        assert outcome(path) in (content, None, "unreadable image", f"{path} is")


def header(kind: bytes, size: int) -> bytes:
    """Return a tar header that gives a size of up to 88 bits, with a right checksum."""
    data = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.GNU_FORMAT))
    data[156:157], data[124:136] = kind, b"\x80" + size.to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize("size", [2**33, 2**62, 2**63, 2**80], ids="{:.0e}".format)
@pytest.mark.parametrize("kind", MEMBER_TYPES.values(), ids=MEMBER_TYPES)
def test_a_tar_with_a_size_that_cannot_be_is_named(kind: bytes, size: int, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(header(kind, size) + bytes(10_240))
    with pytest.raises(ValueError, match=rf"^{path} is not a readable, uncompressed tar \(.*fetch or unpack it again"):
        Archive(path)
    (skip,) = scan_tar(path, "sbu").skips
    assert skip["kind"] == "truncated or damaged tar"
    assert skip["where"].startswith("images.tar: ")


def test_a_tar_with_a_bad_size_is_not_blamed_on_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path, [{"caption": "a dog", "image_id": 1}], [], images=1)
    for folder in ("images", "train2017"):
        for file in (tmp_path / folder).glob("*"):
            file.unlink()
    (tmp_path / "images.tar").write_bytes(header(b"L", 2**62) + bytes(10_240))
    with pytest.raises(SystemExit) as caught:
        main(f"coco --src {tmp_path} --out {tmp_path}/out --splits train".split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/images.tar is not a readable, uncompressed tar (")


def test_a_missing_raw_file_is_not_blamed_on_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(f"image_folder --src {tmp_path} --out {tmp_path}/out --splits train".split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/train.jsonl not found: --src")


def test_sparse_members_of_foreign_tars_are_counted(tmp_path: Path) -> None:
    sparse = header(b"S", 512)
    realsize = bytearray(sparse)
    realsize[386:398], realsize[398:410] = b"00000000000\0", b"00000001000\0"  # a block of 512 bytes at 0
    realsize[483:495] = b"\x80" + (2**70).to_bytes(11, "big")
    realsize[148:156] = b" " * 8
    realsize[148:156] = b"%06o\0 " % sum(realsize)
    (tmp_path / "0.tar").write_bytes(bytes(realsize) + bytes(512) + bytes(10_240))
    (skip,) = scan_tar(tmp_path / "0.tar", "sbu").skips
    assert skip == {"kind": "sparse member", "where": "0.tar, a"}


def test_images_under_another_name_in_a_foreign_tar_are_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", "s0.input.jpg", "s0.txt")
    (skip,) = scan_tar(tmp_path / "0.tar", "sbu").skips
    assert skip["kind"] == "no image"
    assert skip["where"].startswith("0.tar, s0: there is no KEY.jpeg, KEY.jpg")
    assert skip["where"].endswith(", but s0.input.jpg")


def test_a_line_without_end_is_counted_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LONGEST_LINE", 100)
    names = ("a.jpg", "b.jpg")
    write_images(tmp_path, *names)
    lines = [json.dumps({"image": name, "caption": "a dog"}) for name in names]
    for long in (100 - len(lines[0]), 101, 202, 1000):
        text = f"{lines[0]}\n{lines[0] + ' ' * long}\n{lines[1]}"
        (tmp_path / "train.jsonl").write_text(text)
        convert("image_folder", tmp_path, tmp_path / "out", Options(splits=("train",), force=True))
        folder = tmp_path / "out" / "image_folder" / "train"
        assert set(records_of(folder)) == {"image_folder/a.jpg", "image_folder/b.jpg"}
        assert skipped(folder) == {"line too long": 1}
    question = {"question_id": 1, "image": "a.jpg", "question": "what?", "answers": "dog"}
    write_lines(tmp_path / "train.jsonl", [question, {**question, "question_id": 2, "question": "?" * 500}])
    convert("questions", tmp_path, tmp_path / "out", TRAIN)
    assert skipped(tmp_path / "out" / "questions" / "train") == {"line too long": 1}


def test_a_json_file_that_is_too_large_is_named_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image_data.json"
    with path.open("wb") as file:
        file.truncate(rows.MOST_JSON + 1)
    with pytest.raises(ValueError, match=r"image_data\.json has 4,294,967,297 bytes; a JSON file of at most"):
        rows.read_json(path)
    write_json(path, {"a": 1})
    assert rows.read_json(path) == {"a": 1}
