"""One file for every checkpoint: what several ranks have written as a folder is put together before it is opened."""

from __future__ import annotations

import time
from pathlib import Path

from vle_lightning.checkpointing.store import UNFINISHED, flush, write
from vle_lightning.errors import UserError
from vle_lightning.hub.sharded import WHOLE, is_sharded, read_sharded

PATIENCE = 1800.0  # seconds that other ranks wait for the first one


def as_file(path: Path, is_first: bool, patience: float = PATIENCE) -> Path:
    """Return a checkpoint as one file, which the first rank writes into the folder where there is none yet.

    Args:
        path: a file, or a folder of either kind of `vle_lightning.hub.sharded`.
        is_first: whether this is the rank that writes; the others wait for it, without a word between them.
        patience: seconds.

    Raises:
        UserError: the folder cannot be read, or there is no room for the file.
    """
    if not is_sharded(path):
        return path
    file = path / WHOLE
    if is_first and not file.is_file():
        unfinished = file.with_name(file.name + UNFINISHED)
        try:
            write(read_sharded(path, "checkpoint"), unfinished)
            flush(unfinished)
            unfinished.replace(file)
        except OSError as error:
            raise UserError(f"{path} cannot be put together as {file}: {error}") from error
    limit = time.monotonic() + patience
    while not file.is_file():
        if time.monotonic() > limit:
            raise UserError(f"{file} did not appear: the first rank was to write it; see what it printed")
        time.sleep(0.2)
    return file
