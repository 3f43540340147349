"""The embedded world's classes and masks, against its scenes and pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.masks import decode_mask
from datamodules.shards import ShardFolder
from datamodules.toy.scenes import draw_world
from datamodules.toy.vision import SEGMENTS, Vision, draw_vision, largest, mask_of, vision_references
from datamodules.toy.world import CLASSES, SHAPES, Scene, SceneObject, coverage


@pytest.fixture(scope="module")
def vision() -> Vision:
    drawn = draw_world(5, {"train": 400, "val": 200})
    scenes = {
        "train": [d.scene for d in drawn if d.scene_id.split == "train"],
        "val": [d.scene for d in drawn if d.scene_id.split == "val"],
    }
    return draw_vision(5, scenes)  # type: ignore[arg-type]


def test_the_largest_object_is_one_and_its_class_is_even(vision: Vision) -> None:
    scenes = [*vision.classes["train"], *vision.classes["val"]]
    assert len(scenes) == 400 * 4 // 7 + 200
    found = [largest(scene) for scene in scenes]
    assert all(
        item is not None and all(item.size > other.size for other in scene.objects if other is not item)
        for item, scene in zip(found, scenes, strict=True)
    )
    colours = Counter(item.colour for item in found if item is not None)
    assert min(colours.values()) > len(scenes) / 6 * 0.7


def test_no_held_out_scene_shows_what_a_training_scene_does(vision: Vision) -> None:
    for scenes in (vision.classes, vision.masks):
        assert not {scene.key for scene in scenes["train"]} & {scene.key for scene in scenes["val"]}


def test_a_mask_names_what_is_certain() -> None:
    square, circle = SceneObject(0, 0, 1, 2, 0, 0), SceneObject(8, 1, 0, 1, 36, 36)
    mask = mask_of(Scene((square, circle)))
    assert (mask[:16, :16] == 1 + SEGMENTS.index("square")).all()
    covered = coverage(circle)
    part = mask[36:, 36:]
    assert (part[covered == 1] == 1 + SEGMENTS.index("circle")).all()
    assert (part[(covered > 0) & (covered < 1)] == 0).all()
    assert (part[covered == 0] == 1).all()
    assert Counter(mask.ravel().tolist())[1] == 48 * 48 - 256 - int((covered > 0).sum())


def test_the_floors_are_a_guess_and_the_background(vision: Vision) -> None:
    found = vision_references(vision)
    assert found["classification"]["floor/acc@5"] == pytest.approx(5 * found["classification"]["floor/acc@1"])
    masks = np.stack([mask_of(scene) for scene in vision.masks["val"]])
    share = float((masks == 1).sum() / (masks > 0).sum())
    assert found["segmentation"]["floor/pixel_accuracy"] == pytest.approx(share)
    assert found["segmentation"]["floor/miou"] == pytest.approx(share / 5)


def test_shards_hold_what_was_drawn(toy_world: Path) -> None:
    classes, masks = (ShardFolder(toy_world / "shards" / name / "val") for name in ("classes", "masks"))
    assert (classes.manifest.images, masks.manifest.images) == (16, 8)
    sample = classes.read(0, 0)
    assert sample.record.labels[0].label in CLASSES
    assert f"/{sample.record.labels[0].label}/" in sample.record.image_id
    assert {int(n) for n in decode_mask(masks.read(0, 0).right or b"").unique()} <= set(range(2 + len(SHAPES)))
