"""Images: bytes are kept where they can be, and no broken file passes."""

from __future__ import annotations

import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from datamodules.prepare.images import Archive, ZipArchive, open_places, prepare_image, read_image
from datamodules.shards import SampleError
from tests.datamodules.prepare.raw_files import picture


@pytest.mark.parametrize(("file_format", "extension"), [("JPEG", "jpg"), ("PNG", "png")])
def test_an_image_that_needs_no_scaling_keeps_its_bytes(file_format: str, extension: str) -> None:
    data = picture(file_format=file_format)
    assert prepare_image(data, "x", None, 90) == (data, extension)
    assert prepare_image(data, "x", 40, 90) == (data, extension)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
def test_a_large_image_is_scaled_to_the_longest_side(file_format: str) -> None:
    scaled = prepare_image(picture(file_format=file_format), "x", 10, 90)
    assert Image.open(io.BytesIO(scaled.data)).size == (10, 5)
    assert scaled.extension == ("png" if file_format == "PNG" else "jpg")


def test_other_formats_become_jpeg() -> None:
    image = prepare_image(picture(file_format="GIF"), "x", None, 90)
    assert image.extension == "jpg"
    assert Image.open(io.BytesIO(image.data)).size == (40, 20)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_a_broken_image_is_refused(file_format: str, kept: float) -> None:
    whole = picture(size=(200, 100), file_format=file_format)
    data = whole[: int(kept if kept >= 1 else kept * len(whole))]
    with pytest.raises(SampleError, match=r"unreadable image: a\.jpg"):
        prepare_image(data, "a.jpg", None, 90)
    with pytest.raises(SampleError, match="unreadable image"):
        prepare_image(b"no image at all", "a.jpg", 10, 90)


def write_tar(path: Path, *names: str) -> None:
    """Write a tar whose members hold their own names."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))


def test_members_are_found_by_whole_and_by_file_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "images.tar", "images/1.jpg", "a/2.jpg", "b/2.jpg")
    archive = Archive(tmp_path / "images.tar")
    assert archive.read("1.jpg") == archive.read("images/1.jpg") == b"images/1.jpg"
    assert archive.read("a/2.jpg") == b"a/2.jpg"
    assert archive.read("2.jpg") is None  # which of the two?
    assert archive.read("3.jpg") is None


def test_a_folder_comes_before_a_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "images.tar", "1.jpg", "2.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"file")
    places = open_places(tmp_path, ["images.tar", "train", "images"])
    assert read_image(places, "1.jpg") == b"file"
    assert read_image(places, "2.jpg") == b"2.jpg"
    with pytest.raises(SampleError, match=r"missing image: 3\.jpg"):
        read_image(places, "3.jpg")


def test_no_place_and_a_damaged_tar_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of images, train \(a folder, \.tar or \.zip\)"):
        open_places(tmp_path, ["images", "train", "images.tar"])
    (tmp_path / "images.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"images\.tar is not a readable"):
        open_places(tmp_path, ["images", "images.tar"])


def write_zip(path: Path, *names: str, compression: int = zipfile.ZIP_DEFLATED) -> None:
    """Write a zip whose members hold their own names, a hundred times over."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, name * 100)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_found_by_whole_and_by_file_name(tmp_path: Path, compression: int) -> None:
    write_zip(tmp_path / "images.zip", "images/", "images/1.jpg", "a/2.jpg", "b/2.jpg", compression=compression)
    archive = ZipArchive(tmp_path / "images.zip")
    assert archive.read("1.jpg") == archive.read("images/1.jpg") == b"images/1.jpg" * 100
    assert archive.read("a/2.jpg") == b"a/2.jpg" * 100
    assert archive.read("2.jpg") is archive.read("3.jpg") is archive.read("images/") is None


@pytest.mark.parametrize("listed", ["images", "images.tar"])
@pytest.mark.parametrize("there", ["images.tar", "images.zip"])
def test_a_listed_place_may_be_a_tar_or_a_zip(tmp_path: Path, listed: str, there: str) -> None:
    (write_zip if there.endswith("zip") else write_tar)(tmp_path / there, "train2017/1.jpg")
    assert read_image(open_places(tmp_path, ["train", listed]), "1.jpg").startswith(b"train2017/1.jpg")


def test_threads_share_a_zip(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(200)]
    write_zip(tmp_path / "images.zip", *names)
    archive = ZipArchive(tmp_path / "images.zip")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(archive.read, names * 5)) == [name.encode() * 100 for name in names * 5]


def test_a_damaged_member_is_counted_and_a_damaged_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    write_zip(path, "1.jpg", "2.jpg", compression=zipfile.ZIP_STORED)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"1.jpg1.jpg", b"1.jpg7.jpg", 1))
    places = open_places(tmp_path, ["images"])
    assert read_image(places, "2.jpg") == b"2.jpg" * 100
    with pytest.raises(SampleError, match=r"unreadable image: 1\.jpg in images\.zip: Bad CRC-32"):
        read_image(places, "1.jpg")
    path.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"images\.zip is not a readable zip"):
        open_places(tmp_path, ["images"])
    path.write_bytes(whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"))
    with pytest.raises(ValueError, match=r"images\.zip is encrypted"):
        open_places(tmp_path, ["images"])


def test_what_is_no_image_is_told_in_the_same_words_each_time() -> None:
    told = []
    for _ in range(2):
        with pytest.raises(SampleError) as caught:
            prepare_image(b"junk", "2.jpg", None, 90)
        told.append(str(caught.value))
    assert told == ["unreadable image: 2.jpg: none of the formats JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM"] * 2
