"""Archives of strangers, read in bounded steps: what a header or a directory claims costs no memory."""

from __future__ import annotations

import bz2
import copy
import io
import lzma
import os
import struct
import zipfile
import zlib
from typing import BinaryIO

BLOCK = 2**20  # bytes read at a time
MOST_AT_ONCE = 2**22  # bytes that a reader of tars may ask for: headers and captions are smaller
LZMA_STEP = 2**12  # of compressed bytes, which unpack as a whole, to 7,000 times as many
BZIP2_MOST = 1024, 64  # what bzip2 may add to bytes that do not shrink: these, and that part of them
# What zipfile and its decoders raise for damage; each has its own way.
UNZIPPING_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(NotImplementedError, IndexError, ValueError, OverflowError, OSError),
)


def unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a member's bytes, no more than the directory says, however far its stream would unpack.

    `ZipFile.read` unpacks the whole stream first and cuts it afterwards.

    Raises:
        UNZIPPING_ERRORS: The member is damaged, or the directory is wrong about its size.
    """
    if member.compress_type == zipfile.ZIP_BZIP2:
        data = unzip_bzip2(archive, member)
    elif member.compress_type == zipfile.ZIP_LZMA:
        try:
            data = unzip_in_steps(archive, member, LZMA_STEP)
        except MemoryError as error:  # the header of a damaged stream asks for a dictionary of up to 4 GiB
            raise lzma.LZMAError("it asks for more memory than there is") from error
    else:
        data = unzip_in_steps(archive, member, BLOCK)
    if len(data) != member.file_size:
        raise EOFError(f"{len(data):,} bytes, not the {member.file_size:,} of the zip's directory")
    return data


def unzip_in_steps(archive: zipfile.ZipFile, member: zipfile.ZipInfo, step: int) -> bytes:
    """Return a member's bytes, read this many at a time."""
    with archive.open(member) as file:
        return b"".join(iter(lambda: file.read(step), b""))


def unzip_bzip2(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a bzip2 member's bytes; zipfile itself gives the decoder no bound, and 42 bytes may hold 46 MB."""
    packed = copy.copy(member)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, member.compress_size
    del packed.CRC  # which is that of the unpacked bytes
    added, part = BZIP2_MOST
    with archive.open(packed) as file:
        stream = file.read(member.file_size + member.file_size // part + added)
    data = bz2.BZ2Decompressor().decompress(stream, member.file_size + 1)
    if zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
    return data


class ForwardReader(io.RawIOBase):
    """A tar's file as `tarfile` may read it: forwards, and little at a time, whatever sizes its headers claim."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0  # up to where it was read

    def read(self, size: int = -1) -> bytes:
        """Read from where the file stands.

        Raises:
            ValueError: Too much is asked for at once.
        """
        if not 0 <= size <= MOST_AT_ONCE:
            raise ValueError(f"a header of {size:,} bytes at byte {self.bytes:,}; at most {MOST_AT_ONCE:,} are read")
        data = self.file.read(size)
        self.bytes += len(data)
        return data

    def tell(self) -> int:
        """Return how much was read."""
        return self.bytes

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Go on to a later position.

        Raises:
            ValueError: The position is behind.
        """
        if whence != os.SEEK_SET or position < self.bytes:
            raise ValueError(f"the headers lead back from byte {self.bytes:,}")
        self.skip_to(position)
        return self.bytes

    def skip_to(self, position: int) -> None:
        """Leave out the bytes before a position."""
        self.bytes = self.file.seek(position)
