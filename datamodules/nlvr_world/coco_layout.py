"""Drawn scenes in COCO's layout: boxes of the objects, and captions that say which of them they mention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.nlvr_world.archives import write_tar
from datamodules.nlvr_world.captions import Caption, draw_captions
from datamodules.nlvr_world.chunks import MOST_SCENES, SPLITS, Chunk, Options, chunks_of, draw_layout
from datamodules.nlvr_world.paint import HEIGHT, SLOT_PIXELS, WIDTH, png
from datamodules.nlvr_world.scenes import COLOURS, SHAPES, Scene, draw_scene_of
from datamodules.toy.workers import Workers

CAPTIONS = 4  # of a scene, at most
CLASSES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
PER_IMAGE = 100  # ids of an image's objects and captions


class Pictured(NamedTuple):
    """A scene with its captions and its drawing."""

    scene: Scene
    captions: list[Caption]
    image: bytes


def draw_pictured(chunk: Chunk) -> list[Pictured]:
    """Draw the scenes of a chunk."""
    rng = np.random.default_rng(chunk.seeds)
    drawn = []
    for _ in range(chunk.size):
        layout = draw_layout(rng)
        scene = draw_scene_of(chunk.split, layout, rng)
        drawn.append(Pictured(scene, draw_captions(scene, layout, CAPTIONS, rng), png(scene)))
    return drawn


def write_coco(out: Path, options: Options, workers: Workers) -> None:
    """Write ``annotations/{captions,instances}_SPLIT2017.json`` and ``SPLIT2017.tar`` of both splits."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        parts = workers.map(draw_pictured, chunks_of("coco", split, options), 1)
        drawn = [one for part in parts for one in part]
        names = [f"{split}_{number:06d}.png" for number in range(len(drawn))]
        write_tar(out / f"{split}2017.tar", zip(names, (one.image for one in drawn), strict=True))
        first = SPLITS.index(split) * MOST_SCENES  # an id belongs to one image, as COCO's do
        ids = range(first, first + len(drawn))
        sizes = {"width": WIDTH, "height": HEIGHT}
        images = [{"id": i, "file_name": name, **sizes} for i, name in zip(ids, names, strict=True)]
        objects = [row for i, one in zip(ids, drawn, strict=True) for row in _objects(i, one.scene)]
        captions = [row for i, one in zip(ids, drawn, strict=True) for row in _captions(i, one)]
        classes = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
        told = {"instances": {"categories": classes, "annotations": objects}, "captions": {"annotations": captions}}
        for kind, content in told.items():
            text = json.dumps({"images": images, **content})
            (out / "annotations" / f"{kind}_{split}2017.json").write_text(text + "\n", encoding="utf-8")


def _ids(image: int, scene: Scene) -> dict[tuple[int, int], int]:
    """Return the annotation id of each object by its place: box, and number in the box."""
    places = [(box, number) for box, items in enumerate(scene) for number in range(len(items))]
    return {place: image * PER_IMAGE + number for number, place in enumerate(places)}


def _objects(image: int, scene: Scene) -> list[dict[str, object]]:
    return [
        {
            "id": id_,
            "image_id": image,
            "category_id": CLASSES.index(f"{item.colour} {item.shape}"),
            "bbox": [SLOT_PIXELS * box + item.x, item.y, item.pixels, item.pixels],
        }
        for (box, number), id_ in _ids(image, scene).items()
        for item in (scene[box][number],)
    ]


def _captions(image: int, pictured: Pictured) -> list[dict[str, object]]:
    ids = _ids(image, pictured.scene)
    return [
        {
            "id": image * PER_IMAGE + number,
            "image_id": image,
            "caption": caption.text,
            "mentions": [ids[place] for place in caption.mentions],
        }
        for number, caption in enumerate(pictured.captions)
    ]
