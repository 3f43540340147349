"""What the loaders must deliver, and how large a picture is on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ASSUMED = 52_000  # bytes: a JPEG photo of 500 x 375 pixels (docs/data_speed.md)


class ImageBytes(NamedTuple):
    """Bytes that are read for one sample."""

    mean: float
    origin: str  # where the number is from


def measured_bytes(root: str, sources: Mapping[str, float], splits: str | Sequence[str]) -> ImageBytes:
    """Average the bytes of a record over the manifests of an experiment's shards.

    Args:
        root: folder of the shards.
        sources: passes per epoch over each; they weigh the average.
        splits: folder name of the training split, or of several.

    Returns:
        The measured mean; an assumption where a manifest cannot be read here.
    """
    size = weight = 0.0
    several = [splits] if isinstance(splits, str) else splits
    for source, passes, split in ((*pair, split) for split in several for pair in sources.items()):
        file = Path(root) / source / split / "manifest.json"
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            shards, images, samples = manifest["shards"], manifest["images"], manifest["samples"]
            record = sum(shard["bytes"] for shard in shards) / images
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            return ImageBytes(ASSUMED, f"assumed ({file} is not readable here)")
        size, weight = size + passes * samples * record, weight + passes * samples
    if not weight:
        return ImageBytes(ASSUMED, "assumed (there are no samples)")
    return ImageBytes(size / weight, f"measured from the manifests of {root}")
