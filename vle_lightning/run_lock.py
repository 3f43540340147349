"""One training at a time in a run folder: a lock that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO

from vle_lightning.errors import UserError

PATIENCE = 120.0  # seconds that a requeued job waits for the last processes of its own earlier start
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems say that know none
HELD = (errno.EACCES, errno.EAGAIN)


class RunLock:
    """A record lock (fcntl) on ``<run_root>/.<run name>.lock``, which says who holds it.

    The system releases it when the process ends, however it ends, and NFS servers pass it on between machines. It lies
    beside the folder, which an earlier run may take along under another name. Rank zero alone takes it, for all ranks
    and nodes of a job. A process must not open the file twice: closing one of the two would release the lock.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
        """Prepare the lock of a run folder; nothing is written yet."""
        real = folder.resolve()  # by whichever link it is reached
        self.folder, self.file = folder, real.parent / f".{real.name}.lock"
        self._job = environment.get("SLURM_JOB_ID")
        self._handle: IO[str] | None = None

    def take(self, patience: float = PATIENCE) -> None:
        """Take the lock and write down who holds it.

        Args:
            patience: seconds to wait for an earlier start of the same Slurm job; any other holder is refused at once.

        Raises:
            UserError: another process trains in the folder, or the lock cannot be written.
        """
        limit = time.monotonic() + patience
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = self.file.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"run_root: {self.file} cannot be written: {error.strerror}") from error
        while not _try(handle, self.file):
            holder = _read(handle)
            if self._job is None or holder.get("slurm_job") != self._job or time.monotonic() > limit:
                handle.close()
                raise UserError(
                    f"run_name: {self.folder} is in use: {describe(holder)} trains there. Choose another run_name, or "
                    "end that process first"
                )
            time.sleep(0.5)
        handle.seek(0)
        handle.truncate()
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        json.dump(
            {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": self._job, "started": started}, handle
        )
        handle.flush()
        self._handle = handle

    def release(self) -> None:
        """Let others train in the folder."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def describe(holder: Mapping[str, object]) -> str:
    """Say who holds a lock."""
    if not holder:
        return "another process"
    job = f", Slurm job {holder['slurm_job']}" if holder.get("slurm_job") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}{job}, started {holder.get('started')},"


def _try(handle: IO[str], file: Path) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"{file} cannot be locked: {error.strerror}") from error
        print(f"{file} lies on a file system without locks: take care that no second run uses this folder")
    return True


def _read(handle: IO[str]) -> dict[str, object]:
    handle.seek(0)
    try:
        holder = json.loads(handle.read())
    except ValueError:  # its holder is just writing it
        return {}
    return holder if isinstance(holder, dict) else {}
