"""Writes tiny raw data sets in the official layouts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.records import Record
from datamodules.shards import ShardFolder


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


def write_images(folder: Path, *names: str) -> None:
    """Write an image of 40 x 20 under each name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed))


def records_of(folder: Path) -> dict[str, Record]:
    """Return the records of a shard folder by image id."""
    shards = ShardFolder(folder)
    samples = (shards.read(shard, row) for shard, rows in enumerate(shards.shard_sizes) for row in range(rows))
    return {sample.record.image_id: sample.record for sample in samples}
