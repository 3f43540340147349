"""Writes drawn statements in NLVR's raw layout, and drawn captions in COCO's.

A statement's number comes first in the identifiers of its rows, so consistency asks for both of its drawings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.nlvr_world.archives import write_tar
from datamodules.nlvr_world.chunks import SOURCES, SPLITS, Chunk, Options, Source, chunks_of
from datamodules.nlvr_world.coco_layout import write_coco
from datamodules.nlvr_world.paint import png, structured
from datamodules.nlvr_world.pairs import draw_pair
from datamodules.toy.workers import Workers

LABELS = ("true", "false")


class Drawn(NamedTuple):
    """A row of a split's file, and its drawing."""

    row: dict[str, object]
    name: str
    image: bytes


def build_world(out: Path, options: Options, processes: int = 2) -> None:
    """Draw all splits into a folder; what an earlier call drew is removed, and a folder appears when it is whole.

    Args:
        out: gets ``easy``, ``nlvr`` and ``coco``.
        options: what to draw.
        processes: how many work at a time.
    """
    for source in SOURCES:
        shutil.rmtree(out / source, ignore_errors=True)
    with Workers(processes) as workers:
        for source in SOURCES:
            unfinished = out / f"{source}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            if source == "coco":
                write_coco(unfinished, options, workers)
            else:
                write_nlvr(unfinished, source, options, workers)
            unfinished.rename(out / source)


def write_nlvr(out: Path, source: Source, options: Options, workers: Workers) -> None:
    """Write ``SPLIT.json``, a row a line, and ``SPLIT_images.tar`` of both splits."""
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        drawn = [one for part in workers.map(draw_chunk, chunks_of(source, split, options), 1) for one in part]
        write_tar(out / f"{split}_images.tar", ((one.name, one.image) for one in drawn))
        text = "".join(f"{json.dumps(one.row)}\n" for one in drawn)
        (out / f"{split}.json").write_text(text, encoding="utf-8")


def draw_chunk(chunk: Chunk) -> list[Drawn]:
    """Draw the statements of a chunk, each with both labels."""
    rng = np.random.default_rng(chunk.seeds)
    drawn = []
    for number in range(chunk.first, chunk.first + chunk.size):
        pair = draw_pair(chunk.split, rng, chunk.source == "easy")
        for which, (label, scene) in enumerate(zip(LABELS, (pair.true, pair.false), strict=True)):
            prefix = f"{chunk.source}-{chunk.split}-{number}-{which}"
            row: dict[str, object] = {
                "identifier": f"{number}-{which}",
                "sentence": pair.text,
                "label": label,
                "image_prefix": prefix,
                "structured_rep": structured(scene),
            }
            drawn.append(Drawn(row, f"images/{prefix}-0.png", png(scene)))
    return drawn
