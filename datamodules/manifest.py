"""The manifest of a shard folder: what it holds, what was left out, and the size and hash of every shard."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from datamodules.records import KINDS, Kind

FORMAT = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a manifest."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a shard folder holds and what its conversion left out."""

    source: str
    split: str
    kind: Kind
    images: int
    samples: int
    boxes: int
    classes: dict[str, int]  # boxes by class name
    skipped: dict[str, int]  # by kind of defect
    skips: tuple[dict[str, str], ...]  # the first of each kind: {"kind", "where"}
    shards: tuple[ShardEntry, ...]
    format: int = FORMAT

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parse a manifest.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no manifest of this format.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: make the shards first (python -m datamodules.prepare --help)")
        again = "make the shards again with python -m datamodules.prepare"
        try:
            raw = json.loads(path.read_bytes())
            if raw["format"] != FORMAT or raw["kind"] not in KINDS:
                raise ValueError(f"format {raw['format']}, kind {raw['kind']}; known are format {FORMAT} and {KINDS}")
            shards = tuple(ShardEntry(**entry) for entry in raw.pop("shards"))
            return cls(**{**raw, "skips": tuple(raw["skips"])}, shards=shards)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no shard manifest ({error!r}); {again}") from error

    def write(self, path: Path) -> None:
        """Write ``manifest.json``: equal manifests give equal bytes."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
