"""Pictures without captions and texts without pictures, of scenes that nothing else in the world shows.

For pre-training on one modality at a time (VLMo, arXiv 2111.02358, section 3.3). The pictures lie in the raw layout of
``images``, with the boxes of their objects, so that it can be scored how well hidden objects are restored; the texts
are captions in the raw layout of ``texts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.toy.language import captions
from datamodules.toy.layouts import dump
from datamodules.toy.pictures import FILES_PER_TASK, Painting, paint
from datamodules.toy.scenes import CAPTIONS_PER_SCENE, SPLITS, FreshScenes, Purpose, Split, StreamId
from datamodules.toy.workers import Workers
from datamodules.toy.world import SCENE_PIXELS, Scene, SceneKey

LEAST = 4  # scenes of a split, in the smallest world
SHARE = 5 / 7  # bare and told scenes of the training split each, of the world's


@dataclass(frozen=True)
class Alone:
    """Scenes that are painted and not described, and captions of scenes that are not painted."""

    seed: int
    bare: dict[Split, list[Scene]]
    told: dict[Split, list[str]]


def draw_alone(seed: int, world: Mapping[Split, Sequence[Scene]], taken: frozenset[SceneKey]) -> Alone:
    """Draw both; how many there are follows from the size of the world.

    Args:
        seed: Seed of the world.
        world: Its scenes.
        taken: What is shown anywhere else.
    """
    sizes: dict[Split, int] = {
        "train": max(LEAST, round(SHARE * len(world["train"]))),
        "val": max(LEAST, len(world["val"])),
    }
    bare: dict[Split, list[Scene]] = {}
    told: dict[Split, list[str]] = {}
    for number, split in enumerate(SPLITS):
        bare[split] = _fresh(seed, number, sizes[split], Purpose.BARE_SCENES, taken)
        taken |= {scene.key for scene in bare[split]}
        scenes = _fresh(seed, number, sizes[split], Purpose.TOLD_SCENES, taken)
        taken |= {scene.key for scene in scenes}
        streams = _streams(seed, number, sizes[split], Purpose.TOLD_CAPTIONS)
        told[split] = [
            caption.text
            for scene, stream in zip(scenes, streams, strict=True)
            for caption in captions(scene, stream, CAPTIONS_PER_SCENE)
        ]
    return Alone(seed, bare, told)


def write_alone(raw: Path, alone: Alone, workers: Workers) -> None:
    """Write both layouts, pictures included.

    Args:
        raw: Gets the folders scenes and texts.
        alone: What to write.
        workers: Paint the pictures.
    """
    for folder in (raw / "scenes/images", raw / "texts"):
        folder.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(SPLITS):
        names = [f"images/{split}_{place:06d}.jpg" for place in range(len(alone.bare[split]))]
        paintings = [
            Painting(raw / "scenes" / name, scene, StreamId(alone.seed, number, place, Purpose.BARE_PICTURES))
            for place, (name, scene) in enumerate(zip(names, alone.bare[split], strict=True))
        ]
        workers.map(paint, paintings, FILES_PER_TASK)
        rows = [_row(name, scene) for name, scene in zip(names, alone.bare[split], strict=True)]
        (raw / f"scenes/{split}.jsonl").write_text("".join(f"{dump(row)}\n" for row in rows), encoding="utf-8")
        lines = "".join(f"{dump({'text': text})}\n" for text in alone.told[split])
        (raw / f"texts/{split}.jsonl").write_text(lines, encoding="utf-8")


def _row(name: str, scene: Scene) -> dict[str, object]:
    boxes, names = ([getattr(item, part) for item in scene.objects] for part in ("box", "class_name"))
    return {"image": name, "boxes": boxes, "names": names, "width": SCENE_PIXELS, "height": SCENE_PIXELS}


def _fresh(seed: int, split: int, count: int, purpose: Purpose, taken: frozenset[SceneKey]) -> list[Scene]:
    return FreshScenes(_streams(seed, split, count, purpose), taken).scenes


def _streams(seed: int, split: int, count: int, purpose: Purpose) -> list[np.random.Generator]:
    return [StreamId(seed, split, number, purpose).start() for number in range(count)]
