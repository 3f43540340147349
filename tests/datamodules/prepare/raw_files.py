"""Writes tiny raw data sets in the official layouts, and finds the real ones."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.records import Record
from datamodules.shards import ShardFolder

REAL = Path(__file__).parents[4] / "shared" / "data"  # beside the repository


def real_folder(name: str) -> Path:
    """Return the folder of a real data set, or skip the test where it is not there."""
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} is not there")
    return REAL / name


def picture(seed: int = 0, size: tuple[int, int] = (40, 20), file_format: str = "JPEG") -> bytes:
    """Return an encoded image of random colours; size is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def write_json(path: Path, content: object) -> None:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(path: Path, rows: Iterable[object]) -> None:
    """Write a JSON-lines file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_images(folder: Path, *names: str) -> None:
    """Write an image of 40 x 20 under each name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed))


def skipped(folder: Path) -> dict[str, int]:
    """Return what a conversion left out, by kind."""
    return ShardFolder(folder).manifest.skipped


def records_of(folder: Path) -> dict[str, Record]:
    """Return the records of a shard folder by image id."""
    shards = ShardFolder(folder)
    samples = (shards.read(shard, row) for shard, rows in enumerate(shards.shard_sizes) for row in range(rows))
    return {sample.record.image_id: sample.record for sample in samples}
