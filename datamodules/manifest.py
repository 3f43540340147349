"""The manifest of a shard folder: what it holds, what was left out, and the size and hash of every shard."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from datamodules.records import KINDS, Kind

Layout = Literal["records", "captions"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

FORMAT = 2
NAME = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a manifest."""

    name: str  # path of the tar, relative to the manifest's folder
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a shard folder holds and what its conversion left out."""

    source: str
    split: str
    kind: Kind
    layout: Layout  # what lies beside an image: our KEY.json, or a foreign tar's KEY.txt with one caption
    images: int
    samples: int
    boxes: int
    classes: dict[str, int]  # boxes by class name
    skipped: dict[str, int]  # by kind of defect
    skips: tuple[dict[str, str], ...]  # the first of each kind: {"kind", "where"}
    shards: tuple[ShardEntry, ...]
    made_from: dict[str, Any]  # options of the conversion, and the SHA-256 of each annotation file
    format: int = FORMAT

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parse a manifest file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no manifest of this format.
        """
        return cls.parse(read_manifest(path), str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """Parse a manifest; raises ValueError naming ``where`` if it is none of this format."""
        again = "make the shards again with python -m datamodules.prepare"
        try:
            raw = json.loads(data)
            if raw["format"] != FORMAT or raw["kind"] not in KINDS or raw["layout"] not in LAYOUTS:
                raise ValueError(
                    f"format {raw['format']}, kind {raw.get('kind')}, layout {raw.get('layout')}; known are format "
                    f"{FORMAT}, {KINDS} and {LAYOUTS}"
                )
            shards = tuple(ShardEntry(**entry) for entry in raw.pop("shards"))
            return cls(**{**raw, "skips": tuple(raw["skips"])}, shards=shards)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} is no shard manifest ({error!r}); {again}") from error

    def write(self, path: Path) -> None:
        """Write ``manifest.json``: equal manifests give equal bytes."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> bytes:
    """Return the content of a manifest file; raises FileNotFoundError that says what to run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: make the shards first (python -m datamodules.prepare --help)")
    return path.read_bytes()
