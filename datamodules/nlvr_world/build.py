"""Writes drawn statements in NLVR's raw layout: ``SPLIT.json``, a row a line, and ``SPLIT_images.tar``.

A statement's number comes first in its rows' identifiers, so consistency asks for both of its drawings.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.nlvr_world.paint import png, structured
from datamodules.nlvr_world.pairs import draw_pair
from datamodules.toy.workers import Workers

SPLITS = ("train", "val")
CHUNK = 250  # statements that a process draws at a time; each chunk has a seed of its own
LABELS = ("true", "false")


@dataclass(frozen=True)
class WorldOptions:
    """What is drawn; equal options give equal bytes."""

    train: int = 30_000
    val: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes and seeds that make no sense.

        Raises:
            ValueError: a split has no statement, or the seed is negative.
        """
        for name in SPLITS:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give at least one statement")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must not be negative")


class Chunk(NamedTuple):
    """Statements that are drawn with one seed."""

    split: str
    first: int  # number of the first statement
    statements: int
    seed: int


class Drawn(NamedTuple):
    """A row of a split's file, and its drawing."""

    row: dict[str, object]
    name: str
    image: bytes


def build_world(out: Path, options: WorldOptions, processes: int = 2) -> None:
    """Draw both splits into a folder; the files of an earlier call are replaced.

    Args:
        out: the raw folder.
        options: what to draw.
        processes: how many work at a time; the bytes do not depend on it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with Workers(processes) as workers:
        for split in SPLITS:
            chunks = list(_chunks(split, getattr(options, split), options.seed))
            drawn = workers.map(draw_chunk, chunks, 1)
            _write(out, split, [one for chunk in drawn for one in chunk])


def _chunks(split: str, statements: int, seed: int) -> Iterator[Chunk]:
    for first in range(0, statements, CHUNK):
        yield Chunk(split, first, min(CHUNK, statements - first), seed)


def draw_chunk(chunk: Chunk) -> list[Drawn]:
    """Draw the statements of a chunk, each with both labels."""
    rng = np.random.default_rng((chunk.seed, SPLITS.index(chunk.split), chunk.first))
    drawn = []
    for number in range(chunk.first, chunk.first + chunk.statements):
        pair = draw_pair(rng)
        for which, (label, scene) in enumerate(zip(LABELS, (pair.true, pair.false), strict=True)):
            prefix = f"{chunk.split}-{number}-{which}"
            row: dict[str, object] = {
                "identifier": f"{number}-{which}",
                "sentence": pair.text,
                "label": label,
                "image_prefix": prefix,
                "structured_rep": structured(scene),
            }
            drawn.append(Drawn(row, f"images/{prefix}-0.png", png(scene)))
    return drawn


def _write(out: Path, split: str, drawn: list[Drawn]) -> None:
    rows, archive = out / f"{split}.json", out / f"{split}_images.tar"
    rows.unlink(missing_ok=True)  # a split without its rows is no split: it appears when its drawings are there
    with tarfile.open(archive, "w") as file:
        for one in drawn:
            entry = tarfile.TarInfo(one.name)
            entry.size = len(one.image)
            file.addfile(entry, io.BytesIO(one.image))
    unfinished = rows.with_suffix(".unfinished")
    unfinished.write_text("".join(f"{json.dumps(one.row)}\n" for one in drawn), encoding="utf-8")
    unfinished.rename(rows)
