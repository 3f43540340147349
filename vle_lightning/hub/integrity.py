"""Checksums of what ``torch.save`` wrote: a zip archive with a CRC-32 a member, which torch does not compare."""

from __future__ import annotations

import io
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import IO

from vle_lightning.errors import UserError


def check_integrity(file: Path, option: str) -> None:
    """Compare every byte of a file of ``torch.save`` with its checksum, once a process; earlier forms carry none.

    Raises:
        UserError: a byte differs, or the archive cannot be read.
    """
    if not _is_archive(file):
        return
    about = file.stat()
    if damaged := _damaged_member(file.absolute(), about.st_size, about.st_mtime_ns):
        raise UserError(
            f"{option}: {file} is damaged: {damaged} is not what was written. Take another checkpoint of the run "
            "folder, or bring back a copy"
        )


def check_slice(file: IO[bytes], offset: int, length: int, path: Path, option: str) -> None:
    """Do so with an archive that lies within a larger file, as each tensor of torch's distributed form does.

    Args:
        file: open for reading.
        offset: of the archive's first byte.
        length: of the archive in bytes.
        path: of the file, for the message.
        option: what to call the source in messages.

    Raises:
        UserError: a byte differs, or the archive cannot be read.
    """
    file.seek(offset)
    archive = io.BytesIO(file.read(length))
    if _is_archive(archive) and (damaged := _test(archive)):
        raise UserError(
            f"{option}: {path} is damaged: {damaged} at byte {offset} is not what was written. Take another "
            "checkpoint of the run folder, or bring back a copy"
        )


@lru_cache(maxsize=64)
def _damaged_member(file: Path, size: int, changed: int) -> str | None:
    del size, changed  # that the file is another one
    return _test(file)


def _is_archive(source: Path | IO[bytes]) -> bool:
    """Is it a zip archive, be it a damaged one?"""
    try:
        return zipfile.is_zipfile(source)
    except zipfile.BadZipFile:
        return True


def _test(source: Path | IO[bytes]) -> str | None:
    try:
        with zipfile.ZipFile(source) as archive:
            return archive.testzip()
    except (OSError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"its list of members ({error})"
