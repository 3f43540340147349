"""The picture files: each scene is painted once and lies in every raw layout under that layout's name."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.toy.scenes import Description, Purpose, StreamId
from datamodules.toy.workers import Workers
from datamodules.toy.world import CELL_PIXELS, COLUMNS, Pixels, Scene, render

JPEG_QUALITY = 95
COVER_LEVEL = 16  # of 255; the darkest ground is about 70
FILES_PER_TASK = 500


def coco_name(image_id: int) -> str:
    """Return the file name of an image in COCO, such as "000000000139.jpg"."""
    return f"{image_id:012d}.jpg"


def picture_paths(raw: Path, description: Description) -> tuple[Path, ...]:
    """Return where a picture lies in the layouts of COCO, Visual Genome (twice), VQAv2 and VCR."""
    image_id, split = description.image_id, description.scene_id.split
    return (
        raw / "coco/images" / coco_name(image_id),
        raw / "visual_genome/images" / f"{image_id}.jpg",
        raw / "relations/images" / f"{image_id}.jpg",
        raw / f"vqav2/{split}2014/COCO_{split}2014_{coco_name(image_id)}",
        raw / "vcr/vcr1images/toy" / coco_name(image_id),
    )


def write_pictures(raw: Path, descriptions: Sequence[Description], workers: Workers) -> None:
    """Paint all pictures, several processes at a time."""
    for folder in {path.parent for description in descriptions for path in picture_paths(raw, description)}:
        folder.mkdir(parents=True, exist_ok=True)
    workers.map(functools.partial(_write_picture, raw), descriptions, FILES_PER_TASK)


def _write_picture(raw: Path, description: Description) -> None:
    pixels = render(description.scene, description.scene_id.stream(Purpose.PICTURE))
    original, *others = picture_paths(raw, description)
    _save(pixels, original)
    for path in others:
        link(original, path)


class Painting(NamedTuple):
    """A picture to be painted for a task."""

    path: Path
    scene: Scene
    stream: StreamId
    cover: int | None = None  # the cell that cannot be seen


def paint(painting: Painting) -> None:
    """Paint a picture and save it, the covered cell as a dark square."""
    pixels = render(painting.scene, painting.stream.start())
    if painting.cover is not None:
        y, x = (CELL_PIXELS * number for number in divmod(painting.cover, len(COLUMNS)))
        pixels[y : y + CELL_PIXELS, x : x + CELL_PIXELS] = COVER_LEVEL
    _save(pixels, painting.path)


def _save(pixels: Pixels, path: Path) -> None:
    # PNGs of NLVR2 are JPEGs in part, so here as well; 4:4:4: colour is content
    Image.fromarray(pixels).save(path, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def link(original: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(original, path)
    except OSError:
        shutil.copyfile(original, path)
