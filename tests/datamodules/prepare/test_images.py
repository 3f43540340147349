"""Images: bytes are kept where they can be, and no broken file passes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from datamodules.prepare.images import Archive, open_places, prepare_image, read_image
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
    with pytest.raises(FileNotFoundError, match=r"none of images, images\.tar"):
        open_places(tmp_path, ["images", "images.tar"])
    (tmp_path / "images.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match=r"images\.tar is no readable"):
        open_places(tmp_path, ["images", "images.tar"])
