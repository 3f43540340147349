"""One reading of a foreign tar: its SHA-256, where its samples lie, and which of them cannot be used."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.index import Column, image_number, key_in_header, split_name
from datamodules.partial import Skip, make_skip
from datamodules.prepare.unpacking import BLOCK, ForwardReader

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")  # what torchvision decodes


class Scan(NamedTuple):
    """What one reading of a tar gave."""

    path: Path
    bytes: int
    sha256: str
    rows: NDArray[np.int64]  # (samples, 9), see `Column`
    skips: list[Skip]


class HashingReader(ForwardReader):
    """A file that is read once, from beginning to end, and hashed on the way; it seeks forward by reading."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read, hash and count."""
        data = super().read(size)
        self.digest.update(data)
        return data

    def skip_to(self, position: int) -> None:
        """Read up to a position, or to the end."""
        while self.bytes < position and self.read(min(BLOCK, position - self.bytes)):
            pass


LONGEST_CAPTION = 2**20  # bytes
SHOWN = 3  # other members in a message
EXPECTED = {  # what follows the key, which ends at the first dot of the file name
    "no image": f": there is no KEY.{', KEY.'.join(sorted(IMAGE_EXTENSIONS))}",
    "no caption text": ": there is no KEY.txt",
}


class TarSample:
    """What a tar holds under one key."""

    def __init__(self) -> None:
        self.image: tuple[int, int] | None = None  # offset and bytes
        self.text: tuple[int, int] | None = None
        self.check = 0  # `checksum` of both
        self.defect: str | None = None  # the first that was found
        self.others: list[str] = []  # some of the members that are neither

    def add(self, extension: str, place: tuple[int, int], caption: bytes) -> None:
        """Enter a member; two of a kind make a sample that nobody can tell from another."""
        is_text = extension == "txt"
        if (self.text if is_text else self.image) is not None:
            self.defect = self.defect or "key twice"
        if is_text:
            self.text = place
            self.defect = self.defect or caption_defect(caption)
        else:
            self.image = place

    def row(self, image_id: str) -> tuple[int, ...] | str:
        """Return the row of the index, or what is wrong."""
        if self.defect is not None:
            return self.defect
        if self.image is None or not self.image[1]:
            return "no image"
        if self.text is None:
            return "no caption text"
        return (*self.image, 0, 0, *self.text, 0, image_number(image_id), self.check)


def caption_defect(caption: bytes) -> str | None:
    """Return why a caption cannot be used, or None if it can."""
    if len(caption) > LONGEST_CAPTION:
        return "caption too long"
    try:
        return None if caption.decode().split() else "empty caption"
    except UnicodeDecodeError:
        return "caption without UTF-8"


def scan_tar(path: Path, source: str) -> Scan:
    """Read a tar once.

    A sample without image, without text or with an empty one is counted and left out; so is a whole tar that is
    damaged, since what follows the damage is not known.

    Args:
        path: The tar.
        source: Name of the data set, the beginning of every image id.
    """
    with path.open("rb", buffering=BLOCK) as file:
        reader = HashingReader(file)
        try:
            samples, end = read_members(reader)
            while reader.read(BLOCK):  # to the end, for the hash
                pass
            check_end(file, end, reader.bytes)
            rows, skips = read_rows(file.fileno(), path.name, source, samples)
        except (tarfile.TarError, ValueError, OverflowError, OSError) as error:  # sizes that cannot be, too
            skip = make_skip("truncated or damaged tar", f"{path.name}: {error}; fetch it again")
            return Scan(path, reader.bytes, "", np.empty((0, len(Column)), np.int64), [skip])
        table = np.array(rows, dtype=np.int64).reshape(-1, len(Column))
    return Scan(path, reader.bytes, reader.digest.hexdigest(), table, skips)


def read_rows(
    descriptor: int, name: str, source: str, samples: Mapping[str, TarSample]
) -> tuple[list[tuple[int, ...]], list[Skip]]:
    """Return the index rows of a tar's usable samples, and the others."""
    rows: list[tuple[int, ...]] = []
    skips: list[Skip] = []
    for key, sample in samples.items():
        row = sample.row(f"{source}/{key}") if is_key(key) else "bad key"
        if not isinstance(row, str) and not in_header(descriptor, key, row[Column.IMAGE_OFFSET]):
            row = "name too long for its tar header"  # readers find the key there
        if isinstance(row, str):
            found = f", but {', '.join(sample.others)}" if sample.others and row.startswith("no ") else ""
            skips.append(make_skip(row, f"{name}, {key}{EXPECTED.get(row, '')}{found}"))
        else:
            rows.append(row)
    return rows, skips


def read_members(reader: HashingReader) -> tuple[dict[str, TarSample], int]:
    """Return a tar's samples by key, in order, and where its last member ends."""
    samples: dict[str, TarSample] = {}
    # tarfile's own sequential mode ("r|") copies its whole buffer at every header
    with tarfile.open(fileobj=reader, mode="r:") as tar:
        for member in tar:
            key, extension = split_name(member.name)
            if not member.isfile():
                continue
            sample = samples.setdefault(key, TarSample())
            extension = extension.lower()
            if extension != "txt" and extension not in IMAGE_EXTENSIONS and len(sample.others) < SHOWN:
                sample.others.append(PurePosixPath(member.name).name)
            if extension == "txt" or extension in IMAGE_EXTENSIONS:
                if member.issparse():  # its bytes are not those of the file
                    sample.defect = "sparse member"
                    continue
                content = tar.extractfile(member)
                assert content is not None, "a member that is a file"
                caption = content.read(LONGEST_CAPTION + 1) if extension == "txt" else b""
                sample.add(extension, (member.offset_data, member.size), caption)
                sample.check = zlib.crc32(caption, sample.check)
                while block := content.read(BLOCK):
                    sample.check = zlib.crc32(block, sample.check)
        return samples, tar.offset


def check_end(file: BinaryIO, end: int, size: int) -> None:
    """Make sure that nothing but zeros follows the last member, and at least one block of them.

    tarfile takes a damaged header for the end, and a file cut between two members for a whole one.

    Raises:
        ValueError: The tar goes on, or ends without its mark.
    """
    file.seek(end)
    mark = file.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise ValueError(f"it ends at byte {size:,} without an end mark")
    if any(mark):
        raise ValueError(f"there is no tar header at byte {end:,}")


def is_key(key: str) -> bool:
    """Return whether a key names its sample: ".jpg" has none before its first dot, nor has what is no UTF-8."""
    return bool(key) and not key.endswith("/") and key.isprintable()


def in_header(descriptor: int, key: str, offset: int) -> bool:
    """Return whether the header of the member at ``offset`` has the key; extended ones (GNU, pax) lie elsewhere."""
    try:
        return key_in_header(descriptor, offset) == key
    except tarfile.TarError:
        return False
