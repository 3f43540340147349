"""Raw images: where they lie, and which bytes go into the shard."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from PIL import Image, UnidentifiedImageError

from datamodules.orientation import UPRIGHT, turn_box
from datamodules.pictures import (
    DECODING_ERRORS,
    FORMATS,
    JPEGS,
    DamagedError,
    check_bytes,
    is_upright,
    load_upright,
    open_raster,
    read_file,
    stored_orientation,
)
from datamodules.prepare.unpacking import UNZIPPING_ERRORS, ForwardReader, unzip
from datamodules.records import BOX_DECIMALS, Box, Record
from datamodules.shards import SampleError
from datamodules.transforms import decode

EXTENSIONS = {"JPEG": "jpg", "PNG": "png"}  # formats whose bytes may be kept
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
    """Images as files; names and links do not lead out of the raw folder."""

    def __init__(self, path: Path, root: Path | None = None, follow_links: bool = False) -> None:
        """Name the folder.

        Args:
            path: Of the images; it may itself be a link.
            root: The raw folder, which links in it may lead to.
            follow_links: Let them lead anywhere, for those who link their images on purpose.
        """
        self.path, self.root, self.follow_links = path, root or path, follow_links
        self.homes = (path.resolve(), self.root.resolve())

    def read(self, name: str) -> bytes | None:
        """Return the file's bytes; None if there is no such file.

        Raises:
            SampleError: Those of `find`, or "unreadable image": no regular file, or too large.
        """
        try:
            return read_file(self.find(name))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise SampleError("unreadable image", f"{name!r}: {error}") from error

    def find(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            SampleError: "name outside the raw folder", or "link out of the raw folder".
            FileNotFoundError: There is no such file.
            OSError, RuntimeError: The path cannot be followed, as that of links in a circle.
        """
        path = inside(self.path, name, self.root)
        if not self.follow_links and not any(path.resolve(strict=True).is_relative_to(home) for home in self.homes):
            raise SampleError("link out of the raw folder", f"{name}; --follow-links reads it all the same")
        return path


class Archive:
    """Images as members of an uncompressed tar, found by their whole name or by their file name alone."""

    def __init__(self, path: Path) -> None:
        """List the members.

        Raises:
            ValueError: It is no tar, or a damaged one.
        """
        self.descriptor = -1
        try:
            with path.open("rb") as file, tarfile.open(fileobj=ForwardReader(file), mode="r:") as tar:
                files = ((member.name, (member.offset_data, member.size)) for member in tar if member.isfile())
                self.members = by_both_names(files)
        except (tarfile.TarError, ValueError, OverflowError, OSError) as error:  # a size that cannot be, too
            raise ValueError(
                f"{path} is not a readable, uncompressed tar ({error}); fetch or unpack it again"
            ) from error
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, name: str) -> bytes | None:
        """Return the member's bytes; None if there is no such member."""
        place = self.members.get(name)
        if place is None:
            return None
        refuse_large(place[1], name)
        return os.pread(self.descriptor, place[1], place[0])

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
        except UNZIPPING_ERRORS as error:
            raise ValueError(f"{path} is not a readable zip ({error}); fetch it again") from error
        files = [member for member in self.zip.infolist() if member.filename and not member.is_dir()]
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
        refuse_large(member.file_size, name)
        try:
            with self.lock:
                return unzip(self.zip, member)
        except UNZIPPING_ERRORS as error:
            raise SampleError("unreadable image", f"{name} in {self.path.name}: {error}") from error


def refuse_large(size: int, name: str) -> None:
    """Raise SampleError "unreadable image" for a member of an archive that is too large, before it is unpacked."""
    try:
        if size < 0:
            raise ValueError("a size below 0")
        check_bytes(size)
    except ValueError as error:
        raise SampleError("unreadable image", f"{name}: {error}") from error


def inside(folder: Path, name: str, root: Path) -> Path:
    """Return the path of a name that an annotation gives, by its words alone; see `Folder` for links.

    Raises:
        SampleError: "name outside the raw folder": it is absolute, or leads out of it.
    """
    path = Path(os.path.normpath(folder / name)) if "\0" not in name else root.parent
    if os.path.isabs(name) or not path.is_relative_to(os.path.normpath(root)):
        raise SampleError("name outside the raw folder", f"{name!r}; names are paths below --src")
    return folder / name


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


def open_places(src: Path, names: Sequence[str], follow_links: bool = False) -> list[Place]:
    """Open what exists of the folders and archives: each NAME may be a folder, NAME.tar or NAME.zip.

    Args:
        src: The raw folder.
        names: Below it.
        follow_links: See `Folder`.

    Raises:
        FileNotFoundError: None of them does.
        ValueError: An archive is damaged.
    """
    stems = dict.fromkeys(name.removesuffix(".tar") for name in names)
    places: list[Place] = [Folder(src / stem, src, follow_links) for stem in stems if (src / stem).is_dir()]
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
    """Check that an image decodes, turn it upright, and scale it down if it is larger than wanted.

    A JPEG or PNG that needs neither keeps its bytes; other formats become JPEG. What the stream would not read or
    hold for damaged is refused here.

    Args:
        data: The file.
        name: For messages.
        longest_side: Upper bound of width and height in pixels; None keeps every size.
        quality: Of the JPEGs that are written here, 1 to 95.

    Raises:
        SampleError: "unreadable image" or "damaged image".
    """
    try:
        with open_raster(data) as image:
            fits = longest_side is None or max(image.size) <= longest_side
            keep = image.format in EXTENSIONS and fits and is_upright(image)
            if keep or image.format in JPEGS:
                decode(data)  # hears of damage, which Pillow does not tell
            if keep:
                return EncodedImage(data, EXTENSIONS[str(image.format)])
            return encode(image, longest_side, quality)
    except UnidentifiedImageError as error:  # its own message has an address in memory
        raise SampleError("unreadable image", f"{name}: none of the formats {', '.join(FORMATS)}") from error
    except DamagedError as error:
        raise SampleError("damaged image", f"{name}: {error}") from error
    except DECODING_ERRORS as error:
        raise SampleError("unreadable image", f"{name}: {error}") from error


def encode(image: Image.Image, longest_side: int | None, quality: int) -> EncodedImage:
    """Turn an opened image upright, scale it down (bicubic, antialiased) and encode it: PNG as PNG, others as JPEG."""
    extension = EXTENSIONS.get(str(image.format), "jpg")
    picture = load_upright(image).convert("RGB")
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


def upright_record(record: Record, data: bytes) -> Record:
    """Carry a record's boxes, given in an image as it is stored, over to the upright image.

    Raises:
        SampleError: "unreadable image".
    """
    try:
        with open_raster(data) as image:
            orientation = stored_orientation(image)
    except DECODING_ERRORS as error:
        raise SampleError("unreadable image", f"{record.image_id}: {error}") from error
    if orientation == UPRIGHT:
        return record
    turned = (turn_box(box, orientation) for box in record.boxes)
    return replace(record, boxes=tuple(rounded(box) for box in turned))


def rounded(box: Box) -> Box:
    """Return a box with the decimals that records have."""
    x0, y0, x1, y1 = (round(edge, BOX_DECIMALS) for edge in box)
    return x0, y0, x1, y1
