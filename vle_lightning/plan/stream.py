"""What the loaders must deliver, and how large a record is on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class RecordBytes(NamedTuple):
    """Bytes that are read for one sample."""

    mean: float
    origin: str  # where the number is from
    epoch: int = 0  # samples of an epoch; 0 where nobody has counted them


def measured_bytes(
    root: str, sources: Mapping[str, float], splits: str | Sequence[str], assumed: float, counted: str = "samples"
) -> RecordBytes:
    """Average the bytes of a record over the manifests of an experiment's shards.

    Args:
        root: folder of the shards.
        sources: passes per epoch over each; they weigh the average.
        splits: folder name of the training split, or of several.
        assumed: where a manifest cannot be read here.
        counted: what of a manifest is a sample of the task: its samples, or its images.
    """
    size = weight = 0.0
    epoch = 0
    several = [splits] if isinstance(splits, str) else splits
    for source, passes, split in ((*pair, split) for split in several for pair in sources.items()):
        file = Path(root) / source / split / "manifest.json"
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            shards, images, samples = manifest["shards"], manifest["images"], manifest[counted]
            record = sum(shard["bytes"] for shard in shards) / images
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            return RecordBytes(assumed, f"assumed ({file} is not readable here)")
        size, weight = size + passes * samples * record, weight + passes * samples
        epoch += round(passes * samples)
    if not weight:
        return RecordBytes(assumed, "assumed (there are no samples)")
    return RecordBytes(size / weight, f"measured from the manifests of {root}", epoch)
