"""What one part has found so far; on disk at once, so that nothing is lost where the part ends badly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vle_lightning.files import write_json


class NotRunError(Exception):
    """A part cannot run here, for a reason that is no failure; its message says which."""


class Report:
    """Figures of one part by name."""

    def __init__(self, file: Path) -> None:
        """Write into ``file``."""
        self._file = file
        self._content: dict[str, Any] = {"figures": {}}

    @property
    def figures(self) -> dict[str, Any]:
        """Return what was added."""
        figures: dict[str, Any] = self._content["figures"]
        return figures

    def add(self, **figures: object) -> None:
        """Add figures."""
        self.figures.update(figures)
        write_json(self._file, self._content)

    def close(self, status: str, reason: str | None = None) -> None:
        """Say how the part ended: done, failed or not run, and why if not done."""
        self._content |= {"status": status} | ({} if reason is None else {"reason": reason})
        write_json(self._file, self._content)


def read_report(file: Path) -> dict[str, Any]:
    """Read what a part left, {} if nothing."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content
