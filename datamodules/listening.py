"""What libjpeg prints: it tells of damaged bytes on the process's standard error alone, and decodes on.

Neither torchvision nor Pillow passes its warnings on, so that a picture of which a block is lost comes out grey or
shifted, and nobody is told. While a picture is decoded, standard error leads to a file in memory. That costs five
system calls, 1 % of decoding a photo.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
STANDARD_ERROR = 2
# libjpeg's warnings of bytes that are not what was written; others are of odd but harmless headers
DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG file", b"Inconsistent progression sequence")


class Listener:
    """One at a time hears what its decoder prints; what others print meanwhile is passed on."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self.file = -1  # in memory; opened when it is needed
        self.outside = -1  # standard error itself, while somebody listens

    def hear(self, work: Callable[[], T]) -> tuple[T, str]:
        """Decode something.

        Args:
            work: Decodes.

        Returns:
            What it returns, and what libjpeg said of damage ("": nothing).
        """
        with self.lock:
            try:
                self.outside = os.dup(STANDARD_ERROR)
            except OSError:  # there is no standard error, and nothing to hear
                return work(), ""
            damage: list[bytes] = []
            try:
                os.dup2(self._opened(), STANDARD_ERROR)
                result = work()
            finally:
                os.dup2(self.outside, STANDARD_ERROR)
                os.close(self.outside)
                self.outside = -1
                damage += self._drain()
            return result, damage[0].decode("ascii", "replace") if damage else ""

    def _opened(self) -> int:
        if self.file < 0:
            if sys.platform == "linux":
                self.file = os.memfd_create("decoder messages")
            else:
                with tempfile.TemporaryFile() as file:
                    self.file = os.dup(file.fileno())
        return self.file

    def _drain(self) -> list[bytes]:
        """Empty the file; returns the lines about damage and passes the others on."""
        if self.file < 0 or not (size := os.fstat(self.file).st_size):
            return []
        lines = os.pread(self.file, size, 0).splitlines(keepends=True)
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        if others := b"".join(line for line in lines if not line.startswith(DAMAGE)):
            os.write(STANDARD_ERROR, others)
        return [line.strip() for line in lines if line.startswith(DAMAGE)]

    def renew(self) -> None:
        """Start anew in a child process: its parent's file is shared, and so may be what it was doing."""
        if self.outside >= 0:
            os.dup2(self.outside, STANDARD_ERROR)
            os.close(self.outside)
        if self.file >= 0:
            os.close(self.file)
        self._reset()


LISTENER = Listener()
os.register_at_fork(after_in_child=LISTENER.renew)
