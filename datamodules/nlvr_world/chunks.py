"""What is drawn, in parts that have seeds of their own: the bytes do not depend on the number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from datamodules.nlvr_world.scenes import Layout

SPLITS = ("train", "val")
CHUNK = 250  # statements or scenes
TOWERS = 0.5  # share of the scenes that are towers

Source = Literal["nlvr", "coco", "easy"]
SOURCES: tuple[Source, ...] = ("nlvr", "coco", "easy")
MOST_SCENES = 1_000_000  # of a split with captions: ids of validation begin there


@dataclass(frozen=True)
class Options:
    """Sizes and seed; equal options give equal bytes."""

    train: int = 40_000
    val: int = 1_000
    train_easy: int = 12_000
    val_easy: int = 500
    train_scenes: int = 15_000
    val_scenes: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes and seeds that make no sense.

        Raises:
            ValueError: a split would be empty or have more ids than it can, or the seed is negative.
        """
        for name in ("train", "val", "train_easy", "val_easy", "train_scenes", "val_scenes"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least 1")
        for name in ("train_scenes", "val_scenes"):
            if getattr(self, name) > MOST_SCENES:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at most {MOST_SCENES:,}")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must not be negative")


class Chunk(NamedTuple):
    """A part of a split."""

    source: Source
    split: str
    first: int  # number of its first statement or scene
    size: int
    seeds: tuple[int, ...]


def chunks_of(source: Source, split: str, options: Options) -> list[Chunk]:
    """Return the parts of a split."""
    name = {"nlvr": split, "easy": f"{split}_easy", "coco": f"{split}_scenes"}[source]
    total: int = getattr(options, name)
    seeds = options.seed, SOURCES.index(source), SPLITS.index(split)
    return [Chunk(source, split, first, min(CHUNK, total - first), (*seeds, first)) for first in range(0, total, CHUNK)]


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draw whether a scene has towers or scattered objects."""
    return "towers" if rng.random() < TOWERS else "scattered"
