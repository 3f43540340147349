"""The index beside a shard: where each sample lies in its tar, so that one seek reads it.

``NAME.index.npy`` is an int64 array (samples, 9), one row per *sample*; those of earlier versions lack the last column.
Readers take it into memory: a mapped file that is truncated meanwhile would kill them (SIGBUS).
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tokenize
import zlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.manifest import NAME as MANIFEST
from datamodules.manifest import ShardEntry

TEXT_EXTENSIONS = ("json", "txt")
RIGHT = "right"  # KEY.right.jpg is the second image of a pair
MASK = "mask"  # KEY.mask.png is the mask of the image; the index has it where a pair has its second image
AGAIN = "make the shards again with python -m datamodules.prepare"
BAD_NPY = (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError)


class Column(IntEnum):
    """What the numbers of a row say."""

    IMAGE_OFFSET = 0
    IMAGE_BYTES = 1
    RIGHT_OFFSET = 2  # of the second image, or the mask
    RIGHT_BYTES = 3  # 0: there is none
    TEXT_OFFSET = 4
    TEXT_BYTES = 5
    ITEM = 6  # number of the sample in its record
    IMAGE = 7  # `image_number` of its image: equal for the samples of one image, in any source
    CHECK = 8  # `checksum` of image, right image and text


UNCHECKED = -1  # a row of an index of an earlier version has no checksum
WIDTHS = (len(Column), len(Column) - 1)  # columns of an index of this version and of the one before


class RecordEntry(NamedTuple):
    """What the index says of a record beside its place."""

    samples: int
    image_id: str


def index_path(shard: Path) -> Path:
    """Return the path of the index beside a shard."""
    return shard.with_suffix(".index.npy")


def image_number(image_id: str) -> int:
    """Return 64 bits of a hash of an image's id, as a signed number."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little", signed=True)


def index_rows(shard: Path, records: Mapping[str, RecordEntry]) -> NDArray[np.int64]:
    """Find every sample of a shard.

    Args:
        shard: A WebDataset tar.
        records: By key, in the order of the shard; members of other keys are left out.

    Returns:
        (samples, 9) int64, see `Column`.
    """
    places: dict[str, list[int]] = {key: [0] * 6 for key in records}
    checks = dict.fromkeys(records, 0)
    with tarfile.open(shard) as tar:
        for member in tar:
            key, extensions = split_name(member.name)
            content = tar.extractfile(member) if key in places else None
            if content is not None:
                column = column_of(extensions)
                places[key][column : column + 2] = member.offset_data, member.size
                checks[key] = zlib.crc32(content.read(), checks[key])
    rows = [
        (*places[key], item, image_number(entry.image_id), checks[key])
        for key, entry in records.items()
        for item in range(entry.samples)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, len(Column))


def split_name(name: str) -> tuple[str, str]:
    """Split a tar member's name into key and extensions as webdataset does: at the first dot of the file's name."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, _, extensions = file.partition(".")
    return f"{folder}{slash}{key}", extensions


def key_in_header(descriptor: int, offset: int) -> str:
    """Return the key of the member whose content begins at ``offset``, from the header before it.

    Raises:
        tarfile.TarError: There is no header.
    """
    header = os.pread(descriptor, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
    return split_name(tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name)[0]


def column_of(extensions: str) -> Column:
    """Return the column of the offset of a member ``KEY.extensions``."""
    if extensions in TEXT_EXTENSIONS:
        return Column.TEXT_OFFSET
    return Column.RIGHT_OFFSET if extensions.startswith((f"{RIGHT}.", f"{MASK}.")) else Column.IMAGE_OFFSET


def checksum(members: Iterable[tuple[int, bytes]]) -> int:
    """Return the CRC-32 of a sample's members, offset and content each, in the order in which they lie in the tar."""
    check = 0
    for _, content in sorted(members):
        check = zlib.crc32(content, check)
    return check


class DamagedError(ValueError):
    """A sample whose bytes are not those that were written: a decoder may make some other picture of them."""


class WrongIndexError(ValueError):
    """A row of an index that leads to no member of the shard, or to another one than it says."""


def read_member(descriptor: int, offset: int, size: int, shard_bytes: int) -> tuple[str, bytes]:
    """Return key and content of the member whose content begins at ``offset``.

    Args:
        descriptor: Of the open shard.
        offset: From the index.
        size: In bytes, from the index.
        shard_bytes: Of the whole shard, from the manifest.

    Raises:
        WrongIndexError: The place is outside the shard, or the member has another size.
        tarfile.TarError: No tar header lies before it.
        EOFError: The file ends within the member.
    """
    if not tarfile.BLOCKSIZE <= offset <= shard_bytes or not 0 <= size <= shard_bytes - offset:
        raise WrongIndexError(f"the index leads to byte {offset} and {size} bytes, the shard has {shard_bytes}")
    data = os.pread(descriptor, tarfile.BLOCKSIZE + size, offset - tarfile.BLOCKSIZE)
    if len(data) != tarfile.BLOCKSIZE + size:
        raise EOFError("the file ends within the sample")
    header = tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    if header.size != size or not header.isfile():
        raise WrongIndexError(f"{header.name} has {header.size} bytes in its tar header, {size} in the index")
    return split_name(header.name)[0], data[tarfile.BLOCKSIZE :]


def check_neighbours(rows: NDArray[np.int64], row: int, shard_bytes: int) -> None:
    """Compare a row with those beside it: the samples of a shard lie in the order of their rows.

    A neighbour that leads nowhere proves nothing; of two equal rows the second is wrong.

    Raises:
        WrongIndexError: The row belongs elsewhere.
    """
    low = max(0, row - 1)
    beside = [(place[Column.TEXT_OFFSET], place[Column.ITEM]) for place in rows[low : row + 2].tolist()]
    own = beside[row - low]
    before, after = beside[: row - low], beside[row - low + 1 :]
    wrong = [place for place in before if tarfile.BLOCKSIZE <= place[0] <= shard_bytes and place >= own]
    wrong += [place for place in after if tarfile.BLOCKSIZE <= place[0] <= shard_bytes and place < own]
    if wrong:
        raise WrongIndexError("it is not in the order of the shard's records: rows of the index were exchanged")


def check_shard(folder: Path, entry: ShardEntry) -> None:
    """Compare a shard and its index with the manifest's entry; raises what `ShardFolder` does."""
    path, index = folder / entry.name, index_path(folder / Path(entry.name).name)
    for needed in (path, index):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} not found, but {folder / MANIFEST} lists it: {AGAIN}")
    if path.stat().st_size != entry.bytes:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, {entry.bytes:,} in its manifest (truncated?): {AGAIN}"
        )
    with index.open("rb") as file:
        header, width = check_header(file, index, entry.samples)
    wanted = header + entry.samples * width * 8
    if index.stat().st_size != wanted:
        raise ValueError(f"{index} has {index.stat().st_size:,} bytes, not {wanted:,} (truncated?): {AGAIN}")


def check_header(file: BinaryIO, path: Path, samples: int) -> tuple[int, int]:
    """Return how many bytes the header of an index has, and how many columns the index.

    Raises:
        ValueError: It is not an index of so many samples.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except BAD_NPY as error:
        raise ValueError(f"{path} is not an index ({error}): {AGAIN}") from error
    if shape not in {(samples, width) for width in WIDTHS}:
        raise ValueError(f"{path} has shape {shape}, not {(samples, len(Column))} as its manifest says: {AGAIN}")
    if dtype != np.dtype(np.int64) or by_columns:
        raise ValueError(f"{path} holds {dtype} by {'columns' if by_columns else 'rows'}, not int64 by rows: {AGAIN}")
    return file.tell(), shape[1]


def open_index(path: Path, samples: int, sha256: str = "") -> NDArray[np.int64]:
    """Read an index into memory.

    Args:
        path: Of the index.
        samples: That the manifest says it has.
        sha256: Of the file, from the manifest; "" in folders that were made before it was written there.

    Raises:
        ValueError: It is not the index of so many samples, or not the file that was hashed.
    """
    content = path.read_bytes()
    header, width = check_header(io.BytesIO(content), path, samples)
    wanted = header + samples * width * 8
    if len(content) != wanted:
        raise ValueError(f"{path} has {len(content):,} bytes, not {wanted:,} (truncated?): {AGAIN}")
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is not the index of which {MANIFEST} has the hash (changed or exchanged?): {AGAIN}")
    rows = np.frombuffer(content, dtype=np.int64, offset=header).reshape(samples, width)
    lacking = len(Column) - width
    return np.pad(rows, ((0, 0), (0, lacking)), constant_values=UNCHECKED) if lacking else rows
