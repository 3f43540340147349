"""The contact sheet: samples of a shard folder with their pictures, boxes and texts."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datamodules.inspect.cell import CELL_WIDTH, GAP, Paragraph, Unread, draw_cell, draw_text, side_by_side, stack
from datamodules.inspect.drawing import MENTIONED, OTHER
from datamodules.inspect.verify import UNREADABLE
from datamodules.shards import RawSample, ShardFolder

COLUMNS = 4
DRAWS = 16  # samples looked at for each that is shown: an image may have many, and is shown once


def draw_sheet(folder: ShardFolder, shards: Sequence[int], path: Path, images: int, seed: int) -> int:
    """Draw samples of different images, chosen by the seed, and write them to a PNG.

    Args:
        folder: An open shard folder.
        shards: Numbers of the shards to draw from.
        path: The PNG.
        images: How many.
        seed: Of the choice.

    Returns:
        How many were drawn: fewer if there are fewer images; of none there is no file.

    Raises:
        OSError: The file cannot be written.
    """
    chosen = choose(folder, shards, images, seed)
    if not chosen:
        return 0
    manifest = folder.manifest
    cells = [draw_cell(sample, folder.kind, manifest.layout == "captions") for sample in chosen]
    what = "texts" if folder.kind == "passages" else "images"
    told = (
        f"{manifest.source}/{manifest.split} ({manifest.kind}): {len(cells)} of {manifest.images:,} {what}, seed {seed}"
    )
    head = [Paragraph(told, bold=True, size=18)]
    if manifest.boxes:
        head += [Paragraph("■ boxes that the text mentions", MENTIONED), Paragraph("■ other boxes", OTHER)]
    width = COLUMNS * (CELL_WIDTH + GAP) - GAP
    rows = [side_by_side(cells[start : start + COLUMNS], width, GAP) for start in range(0, len(cells), COLUMNS)]
    whole = stack([draw_text(head, width), *rows], width, GAP)
    sheet = Image.new("RGB", (whole.width + 2 * GAP, whole.height + 2 * GAP), "white")
    sheet.paste(whole, (GAP, GAP))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")
    return len(cells)


def choose(folder: ShardFolder, shards: Sequence[int], images: int, seed: int) -> list[RawSample | Unread]:
    """Read samples of different images; in place of one that cannot be read stands what is wrong."""
    starts = [0, *itertools.accumulate(folder.shard_sizes[shard] for shard in shards)]
    chosen: list[RawSample | Unread] = []
    seen: set[str] = set()
    for number in random.Random(seed).sample(range(starts[-1]), min(starts[-1], DRAWS * images)):
        if len(chosen) == images:
            break
        which = bisect.bisect_right(starts, number) - 1  # the last that starts there: empty shards are passed over
        shard, row = shards[which], number - starts[which]
        try:
            sample = folder.read(shard, row)
        except UNREADABLE as error:
            chosen.append(Unread(f"{folder.manifest.shards[shard].name}, sample {row}", str(error)))
            continue
        if sample.record.image_id not in seen:
            seen.add(sample.record.image_id)
            chosen.append(sample)
    return chosen
