"""What the tasks beyond VQA and VCR are made of: pairs, covered scenes and a gallery, each with its splits.

Every split has scenes of its own, and none of those that are held out shows what a training scene does, be it
of the task or of the world, from which pre-training takes its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.toy.entailment import CoveredScene, cover_scene
from datamodules.toy.gallery import GalleryScene, describe_apart, describe_freely
from datamodules.toy.pairs import Block, draw_blocks
from datamodules.toy.scenes import FreshScenes, Purpose, Split, StreamId
from datamodules.toy.world import Scene, SceneKey

PAIR_SPLITS = ("train", "dev", "test1")  # the official names
COVERED_SPLITS = ("train", "dev", "test")
GALLERY_SPLITS = ("train", "val", "test")
POOL_PER_BLOCK = 40  # scenes that the held-out pairs are chosen from: enough for the rarest phrases
LEAST = 4  # of anything, in the smallest world


@dataclass(frozen=True)
class PairSplit:
    """Blocks of pairs, and the scenes that they are made of."""

    pool: tuple[Scene, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Tasks:
    """All splits of the three data sets, by their official names."""

    seed: int
    pairs: dict[str, PairSplit]  # train's pool are the world's training scenes
    covered: dict[str, list[CoveredScene]]
    gallery: dict[str, list[GalleryScene]]

    def scenes(self) -> Iterator[Scene]:
        """Yield every scene that is shown."""
        for pairs in self.pairs.values():
            yield from pairs.pool
        for scenes in self.covered.values():
            yield from (covered.scene for covered in scenes)
        for gallery in self.gallery.values():
            yield from (shown.scene for shown in gallery)

    def texts(self) -> Iterator[str]:
        """Yield every sentence that a tokenizer has to know."""
        for pairs in self.pairs.values():
            yield from (statement.text for block in pairs.blocks for statement in block.statements())
        for scenes in self.covered.values():
            yield from (hypothesis.text for covered in scenes for hypothesis in covered.hypotheses)
        for gallery in self.gallery.values():
            yield from (caption.text for shown in gallery for caption in shown.captions)


def draw_tasks(seed: int, world: Mapping[Split, Sequence[Scene]]) -> Tasks:
    """Draw the splits of all three; how large they are follows from the size of the world.

    Args:
        seed: Seed of the world.
        world: Its scenes.
    """
    train, val = len(world["train"]), len(world["val"])
    taken = frozenset(scene.key for scene in world["train"])
    return Tasks(
        seed,
        _draw_pairs(seed, world["train"], _sizes(PAIR_SPLITS, train * 3 // 14, val // 5, val // 5), taken),
        _draw_covered(seed, _sizes(COVERED_SPLITS, train * 4 // 7, val // 2, val // 2), taken),
        _draw_gallery(seed, _sizes(GALLERY_SPLITS, train * 4 // 7, val // 8, val * 25 // 64), taken),
    )


def _sizes(splits: Sequence[str], *sizes: int) -> dict[str, int]:
    return {split: max(LEAST, size) for split, size in zip(splits, sizes, strict=True)}


def _draw_pairs(
    seed: int, train: Sequence[Scene], sizes: Mapping[str, int], taken: frozenset[SceneKey]
) -> dict[str, PairSplit]:
    found: dict[str, PairSplit] = {}
    for number, (split, blocks) in enumerate(sizes.items()):
        if split == "train":
            pool = tuple(train)
        else:
            streams = _streams(seed, number, blocks * POOL_PER_BLOCK, Purpose.PAIR_SCENES)
            pool = tuple(FreshScenes(streams, taken).scenes)
            taken |= {scene.key for scene in pool}
        found[split] = PairSplit(pool, tuple(draw_blocks(pool, _streams(seed, number, blocks, Purpose.PAIRS))))
    return found


def _draw_covered(seed: int, sizes: Mapping[str, int], taken: frozenset[SceneKey]) -> dict[str, list[CoveredScene]]:
    found: dict[str, list[CoveredScene]] = {}
    for number, (split, size) in enumerate(sizes.items()):
        scenes = FreshScenes(_streams(seed, number, size, Purpose.COVERED_SCENES), taken).scenes
        taken |= {scene.key for scene in scenes}
        found[split] = list(map(cover_scene, scenes, _streams(seed, number, size, Purpose.HYPOTHESES)))
    return found


def _draw_gallery(seed: int, sizes: Mapping[str, int], taken: frozenset[SceneKey]) -> dict[str, list[GalleryScene]]:
    found: dict[str, list[GalleryScene]] = {}
    for number, (split, size) in enumerate(sizes.items()):
        fresh = FreshScenes(_streams(seed, number, size, Purpose.GALLERY_SCENES), taken)
        streams = _streams(seed, number, size, Purpose.GALLERY_CAPTIONS)
        if split == "train":
            found[split] = describe_freely(fresh.scenes, streams)
        else:
            found[split] = describe_apart(fresh, streams)
        taken |= {scene.key for scene in fresh.scenes}
    return found


def _streams(seed: int, split: int, count: int, purpose: Purpose) -> list[np.random.Generator]:
    return [StreamId(seed, split, number, purpose).start() for number in range(count)]
