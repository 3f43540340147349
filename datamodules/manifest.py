"""The manifest of a shard folder: what it holds, what was left out, and the size and hash of every shard."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from datamodules.records import KINDS, Kind

Layout = Literal["records", "captions"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

FORMAT = 2
NAME = "manifest.json"
MOST = 1 << 56  # samples or bytes; more is a slip
LONGEST_PART = 255  # bytes of one part of a path that file systems take


@dataclass(frozen=True)
class ShardEntry:
    """One shard of a manifest."""

    name: str  # path of the tar, relative to the manifest's folder
    samples: int
    bytes: int
    sha256: str
    index_sha256: str = ""  # of the index beside it; "" in folders that were made before it was kept

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build from parsed JSON; raises TypeError or ValueError that names the field."""
        entry = cls(**raw)
        for name in ("name", "sha256", "index_sha256"):
            if not isinstance(getattr(entry, name), str):
                raise TypeError(f"{name} of a shard is {getattr(entry, name)!r}, not a text")
        if not entry.name or "\0" in entry.name or max(map(len, os.fsencode(entry.name).split(b"/"))) > LONGEST_PART:
            raise ValueError(f"name of a shard is {entry.name!r}")
        for name, value in (("samples", entry.samples), ("bytes", entry.bytes)):
            if not is_count(value) or not value:
                raise ValueError(f"{name} of the shard {entry.name} is {value!r}, not a number of at least 1")
        return entry


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
            shards = tuple(map(ShardEntry.from_raw, raw.pop("shards")))
            manifest = cls(**{**raw, "skips": tuple(raw["skips"])}, shards=shards)
            manifest.check_types()
            return manifest
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not a shard manifest ({error!r}); {again}") from error

    def check_types(self) -> None:
        """Raise TypeError naming the first field of a wrong type."""
        fields = {
            "source": isinstance(self.source, str),
            "split": isinstance(self.split, str),
            "images": is_count(self.images),
            "samples": is_count(self.samples),
            "boxes": is_count(self.boxes),
            "classes": isinstance(self.classes, dict) and all(map(is_count, self.classes.values())),
            "skipped": isinstance(self.skipped, dict) and all(map(is_count, self.skipped.values())),
            "skips": all(isinstance(skip, dict) for skip in self.skips),
            "made_from": isinstance(self.made_from, dict),
            "shards": bool(self.shards),
        }
        if wrong := [name for name, right in fields.items() if not right]:
            raise TypeError(f"{wrong[0]} is {str(getattr(self, wrong[0]))[:80]!r}")

    def write(self, path: Path) -> None:
        """Write ``manifest.json``: equal manifests give equal bytes."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def is_count(value: object) -> bool:
    """Is it a whole number from 0 up to what a file may have in bytes?"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def read_manifest(path: Path) -> bytes:
    """Return the content of a manifest file; raises FileNotFoundError that says what to run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: make the shards first (python -m datamodules.prepare --help)")
    return path.read_bytes()
