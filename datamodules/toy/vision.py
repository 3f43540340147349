"""Image classification and segmentation on scenes of their own, in the official raw layouts.

- Classes: the colour and shape of the largest object, of scenes with a largest one. Colour and shape do not depend on
  size, so that the 24 classes are equally likely and nothing but the picture tells them.
- Masks: the background and the four shapes. A pixel that an object covers in part belongs to none of them, as in
  ADE20K a pixel of what is no class: what can be seen is certain, and the ceiling is 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.toy.pictures import FILES_PER_TASK, Painting, paint
from datamodules.toy.scenes import SPLITS, FreshScenes, Purpose, Split, StreamId
from datamodules.toy.workers import Workers
from datamodules.toy.world import CLASSES, SCENE_PIXELS, SHAPES, Scene, SceneKey, SceneObject, coverage

VISION = {"classes": SPLITS, "masks": SPLITS}  # sources and their splits
CONVERTERS = {"classes": "class_folders", "masks": "ade20k"}
FOLDERS: dict[Split, str] = {"train": "training", "val": "validation"}  # as in ADEChallengeData2016
SEGMENTS = ("background", *SHAPES)  # number 1 and on in a mask
NONE = 0  # a pixel that belongs to nothing
LEAST = 4  # scenes of a split, in the smallest world
TOP = 5  # acc@5


@dataclass(frozen=True)
class Vision:
    """The scenes of both tasks, by split."""

    seed: int
    classes: dict[Split, list[Scene]]
    masks: dict[Split, list[Scene]]

    def scenes(self) -> Iterator[Scene]:
        """Yield every scene that is shown."""
        for scenes in (*self.classes.values(), *self.masks.values()):
            yield from scenes


def draw_vision(seed: int, world: Mapping[Split, Sequence[Scene]]) -> Vision:
    """Draw the scenes: none that is held out shows what a training scene does, of the world or of the task.

    Args:
        seed: Seed of the world.
        world: Its scenes.
    """
    train, val = len(world["train"]), len(world["val"])
    taken = frozenset(scene.key for scene in world["train"])
    classes = _draw(seed, {"train": train * 4 // 7, "val": val}, taken, Purpose.CLASS_SCENES, with_largest=True)
    masks = _draw(seed, {"train": train * 2 // 7, "val": val // 2}, taken, Purpose.MASK_SCENES, with_largest=False)
    return Vision(seed, classes, masks)


def _draw(
    seed: int, sizes: Mapping[Split, int], taken: frozenset[SceneKey], purpose: Purpose, with_largest: bool
) -> dict[Split, list[Scene]]:
    found: dict[Split, list[Scene]] = {}
    for place, split in enumerate(SPLITS):
        count = max(LEAST, sizes[split])
        fresh = FreshScenes([StreamId(seed, place, number, purpose).start() for number in range(count)], taken)
        for number in range(count):
            while with_largest and largest(fresh.scenes[number]) is None:
                fresh.redraw(number)
        found[split] = fresh.scenes
        taken |= {scene.key for scene in fresh.scenes}
    return found


def largest(scene: Scene) -> SceneObject | None:
    """Return the largest object; None where several are."""
    most = max(item.size for item in scene.objects)
    found = [item for item in scene.objects if item.size == most]
    return found[0] if len(found) == 1 else None


def mask_of(scene: Scene) -> NDArray[np.uint8]:
    """Return the mask (48, 48) of a scene: 1 where no object is, the shape's number in `SEGMENTS` where one is."""
    mask = np.ones((SCENE_PIXELS, SCENE_PIXELS), dtype=np.uint8)
    for item in scene.objects:
        x0, y0, x1, y1 = item.box
        covered = coverage(item)
        part = np.where(covered >= 1, 2 + item.shape, NONE)
        mask[y0:y1, x0:x1] = np.where(covered > 0, part, mask[y0:y1, x0:x1])
    return mask


def write_vision_layouts(raw: Path, vision: Vision, workers: Workers) -> None:
    """Write ``classes/SPLIT/CLASS/*.jpg``, and ``masks`` in ADE20K's layout."""
    paintings = []
    for place, (split, scenes) in enumerate(vision.classes.items()):
        for number, scene in enumerate(scenes):
            item = largest(scene)
            assert item is not None
            path = raw / "classes" / split / item.class_name / f"scene_{number:05d}.jpg"
            paintings.append(Painting(path, scene, StreamId(vision.seed, place, number, Purpose.CLASS_PICTURES)))
    for split in SPLITS:  # a small world may lack some: all have the same classes
        for name in CLASSES:
            (raw / "classes" / split / name).mkdir(parents=True, exist_ok=True)
    for place, (split, scenes) in enumerate(vision.masks.items()):
        folder, drawn = (raw / "masks" / kind / FOLDERS[split] for kind in ("images", "annotations"))
        folder.mkdir(parents=True)
        drawn.mkdir(parents=True)
        for number, scene in enumerate(scenes):
            name = f"scene_{split}_{number:05d}"
            stream = StreamId(vision.seed, place, number, Purpose.MASK_PICTURES)
            paintings.append(Painting(folder / f"{name}.jpg", scene, stream))
            Image.fromarray(mask_of(scene)).save(drawn / f"{name}.png")
    workers.map(paint, paintings, FILES_PER_TASK)
    rows = [f"{number}\t{name}" for number, name in enumerate(SEGMENTS, 1)]
    (raw / "masks" / "objectInfo150.txt").write_text("\n".join(["Idx\tName", *rows]) + "\n", encoding="utf-8")


def vision_references(vision: Vision) -> dict[str, dict[str, float]]:
    """Return the ceilings and floors of both tasks: the floor is a guess, and everything taken for background."""
    counts = np.zeros(1 + len(SEGMENTS), dtype=np.int64)
    for scene in vision.masks["val"]:
        counts += np.bincount(mask_of(scene).ravel(), minlength=len(counts))
    known = counts[1:]
    share = float(known[0] / known.sum())
    return {
        "classification": {
            "ceiling/acc@1": 1.0,
            "ceiling/acc@5": 1.0,
            "floor/acc@1": 1 / len(CLASSES),
            "floor/acc@5": TOP / len(CLASSES),
        },
        "segmentation": {
            "ceiling/miou": 1.0,
            "ceiling/pixel_accuracy": 1.0,
            "floor/miou": share / np.count_nonzero(known),  # the other classes' is 0
            "floor/pixel_accuracy": share,
        },
    }
