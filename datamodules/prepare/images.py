"""Raw images: where they lie, and which bytes go into the shard."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from PIL import Image, UnidentifiedImageError

from datamodules.shards import SampleError

EXTENSIONS = {"JPEG": "jpg", "PNG": "png"}  # formats whose bytes may be kept
# What Pillow raises for broken files; each decoder has its own way.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
UNZIPPING_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
ENCRYPTED = 1  # bit of a zip member's flags
T = TypeVar("T")


class EncodedImage(NamedTuple):
    """An image as it goes into a shard."""

    data: bytes
    extension: str


class Place(Protocol):
    """A folder or an archive with images."""

    def read(self, name: str) -> bytes | None:
        """Return the file's bytes; None if there is no such file."""


class Folder:
    """Images as files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """Return the file's bytes; None if there is no such file."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None


class Archive:
    """Images as members of an uncompressed tar, found by their whole name or by their file name alone."""

    def __init__(self, path: Path) -> None:
        """List the members.

        Raises:
            ValueError: It is no tar, or a damaged one.
        """
        self.descriptor = -1
        try:
            with tarfile.open(path, "r:") as tar:
                files = ((member.name, (member.offset_data, member.size)) for member in tar if member.isfile())
                self.members = by_both_names(files)
        except tarfile.TarError as error:
            raise ValueError(f"{path} is no readable, uncompressed tar ({error}); fetch or unpack it again") from error
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, name: str) -> bytes | None:
        """Return the member's bytes; None if there is no such member."""
        place = self.members.get(name)
        return None if place is None else os.pread(self.descriptor, place[1], place[0])

    def __del__(self) -> None:
        """Close the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


class ZipArchive:
    """Images as members of a zip, found by their whole name or by their file name alone."""

    def __init__(self, path: Path) -> None:
        """List the members.

        Raises:
            ValueError: It is no zip, a damaged or an encrypted one.
        """
        self.path = path
        self.lock = threading.Lock()  # one file position for all threads
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no readable zip ({error}); fetch it again") from error
        files = [member for member in self.zip.infolist() if not member.is_dir()]
        if any(member.flag_bits & ENCRYPTED for member in files):
            raise ValueError(f"{path} is encrypted; unpack it")
        self.members = by_both_names((member.filename, member) for member in files)

    def read(self, name: str) -> bytes | None:
        """Return the member's bytes; None if there is no such member.

        Raises:
            SampleError: "unreadable image": its bytes do not unpack, or not to what their checksum says.
        """
        member = self.members.get(name)
        if member is None:
            return None
        try:
            with self.lock:
                return self.zip.read(member)
        except UNZIPPING_ERRORS as error:
            raise SampleError("unreadable image", f"{name} in {self.path.name}: {error}") from error


def by_both_names(files: Iterable[tuple[str, T]]) -> dict[str, T | None]:
    """Return archive members by whole name, and by file name; None under a file name that several have."""
    members: dict[str, T | None] = {}
    whole: dict[str, T | None] = {}
    for name, member in files:
        base = PurePosixPath(name).name
        # two files of one name in different folders: only the whole name tells them apart
        members[base] = None if base in members else member
        whole[name] = member
    return members | whole


def open_places(src: Path, names: Sequence[str]) -> list[Place]:
    """Open what exists of the folders and archives: each NAME may be a folder, NAME.tar or NAME.zip.

    Raises:
        FileNotFoundError: None of them does.
        ValueError: An archive is damaged.
    """
    stems = dict.fromkeys(name.removesuffix(".tar") for name in names)
    places: list[Place] = [Folder(src / stem) for stem in stems if (src / stem).is_dir()]
    for ending, archive in ((".tar", Archive), (".zip", ZipArchive)):
        paths = (src / f"{stem}{ending}" for stem in stems)
        places += [archive(path) for path in paths if path.is_file()]
    if not places:
        raise FileNotFoundError(
            f"no images: none of {', '.join(stems)} (a folder, .tar or .zip) in {src}; --src must name the raw folder"
        )
    return places


def read_image(places: Sequence[Place], name: str) -> bytes:
    """Return an image file's bytes from the first place that has it.

    Raises:
        SampleError: "missing image".
    """
    for place in places:
        data = place.read(name)
        if data is not None:
            return data
    raise SampleError("missing image", name)


def prepare_image(data: bytes, name: str, longest_side: int | None, quality: int) -> EncodedImage:
    """Check that an image decodes, and scale it down if it is larger than wanted.

    A JPEG or PNG that needs no scaling keeps its bytes; other formats become JPEG.

    Args:
        data: The file.
        name: For messages.
        longest_side: Upper bound of width and height in pixels; None keeps every size.
        quality: Of the JPEGs that are written here, 1 to 95.

    Raises:
        SampleError: "unreadable image".
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            keep = image.format in EXTENSIONS and (longest_side is None or max(image.size) <= longest_side)
            if keep:
                image.draft("RGB", (1, 1))  # checks the whole file, but decodes a JPEG at an eighth of its size
                image.load()
                return EncodedImage(data, EXTENSIONS[str(image.format)])
            return encode(image, longest_side, quality)
    except UnidentifiedImageError as error:  # its own message has an address in memory
        raise SampleError("unreadable image", f"{name}: no image format that Pillow knows") from error
    except DECODING_ERRORS as error:
        raise SampleError("unreadable image", f"{name}: {error}") from error


def encode(image: Image.Image, longest_side: int | None, quality: int) -> EncodedImage:
    """Scale an opened image down (bicubic, antialiased) and encode it: PNG stays PNG, others become JPEG."""
    extension = EXTENSIONS.get(str(image.format), "jpg")
    picture = image.convert("RGB")
    scale = min(1.0, (longest_side or max(picture.size)) / max(picture.size))
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if extension == "jpg":
        picture.save(file, "JPEG", quality=quality)
    else:
        picture.save(file, "PNG")
    return EncodedImage(file.getvalue(), extension)
