"""The tasks' raw layouts: official files and keys, and pictures that show what the rows are about."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from datamodules.toy.layouts import write_layouts
from datamodules.toy.scenes import SPLITS, Purpose, Split, StreamId, describe, draw_world
from datamodules.toy.task_layouts import write_task_layouts
from datamodules.toy.tasks import Tasks, draw_tasks
from datamodules.toy.workers import Workers
from datamodules.toy.world import Scene, render
from tests.datamodules.toy.worlds import true_of_pair, true_of_whole, verdict

SIZES: dict[Split, int] = {"train": 28, "val": 10}


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    drawn = draw_world(0, SIZES)
    return draw_tasks(0, {split: [d.scene for d in drawn if d.scene_id.split == split] for split in SPLITS})


@pytest.fixture(scope="module")
def raw(tasks: Tasks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "raw"
    described = [describe(drawn) for drawn in draw_world(0, SIZES)]
    write_layouts(folder, {s: [d for d in described if d.scene_id.split == s] for s in SPLITS}, Workers(1))
    write_task_layouts(folder, tasks, Workers(1))
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pixels_of(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
        return np.asarray(image).astype(float)


def painted(scene: Scene, stream: StreamId) -> NDArray[np.float64]:
    return render(scene, stream.start()).astype(float)


def pair_pictures(raw: Path, row: dict[str, Any]) -> tuple[Path, Path]:
    """Return where the official code looks for the pictures of a row."""
    split, block, number, _ = row["identifier"].split("-")
    folder = f"images/train/{row['directory']}" if split == "train" else split
    left, right = (raw / f"nlvr2/{folder}/{split}-{block}-{number}-img{side}.png" for side in (0, 1))
    return left, right


def test_every_nlvr2_row_is_true_of_its_scenes_as_labelled(raw: Path, tasks: Tasks) -> None:
    for split, pairs in tasks.pairs.items():
        rows = read_lines(raw / f"nlvr2/{split}.json")
        assert len(rows) == 8 * len(pairs.blocks) == len({row["identifier"] for row in rows})
        groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for row in rows:
            left, right = (pairs.pool[int(row[f"{side}_url"])] for side in ("left", "right"))
            assert row["label"] == str(true_of_pair(left, right, row["sentence"]))
            assert ("directory" in row) == (split == "train")
            _, block, _, spoken = row["identifier"].split("-")
            groups[block, spoken][row["label"]] += 1
        assert all(labels == {"True": 2, "False": 2} for labels in groups.values())


def test_nlvr2_shows_the_scenes_that_its_rows_name(raw: Path, tasks: Tasks) -> None:
    """Training pairs are the world's pictures themselves; the held-out ones are painted."""
    for number, (split, pairs) in enumerate(tasks.pairs.items()):
        for row in read_lines(raw / f"nlvr2/{split}.json"):
            for side, path in zip(("left", "right"), pair_pictures(raw, row), strict=True):
                scene = int(row[f"{side}_url"])
                if split == "train":
                    assert path.samefile(raw / f"coco/images/{scene + 1:012d}.jpg")
                    continue
                stream = StreamId(tasks.seed, number, scene, Purpose.PAIR_PICTURES)
                assert np.abs(pixels_of(path) - painted(pairs.pool[scene], stream)).mean() < 4


def test_every_snli_ve_row_is_what_its_covered_picture_says(raw: Path, tasks: Tasks) -> None:
    for number, (split, covered) in enumerate(tasks.covered.items()):
        rows = read_lines(raw / f"snli_ve/snli_ve_{split}.jsonl")
        assert len({row["pairID"] for row in rows}) == len(rows) == 3 * len(covered)
        by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_image[row["Flickr30K_ID"]].append(row)
        for (name, found), shown in zip(by_image.items(), covered, strict=True):
            for row in found:
                assert row["gold_label"] == verdict(shown.scene, shown.cover, row["sentence2"])
            pixels = pixels_of(raw / f"snli_ve/flickr30k_images/{name}.jpg")
            stream = StreamId(tasks.seed, number, int(name.rpartition("_")[2]), Purpose.COVERED_PICTURES)
            cell = np.zeros((48, 48), bool)
            if shown.cover is not None:
                row_of_cell, column = divmod(shown.cover, 3)
                cell[16 * row_of_cell : 16 * row_of_cell + 16, 16 * column : 16 * column + 16] = True
                assert np.abs(pixels[cell] - 16).max() < 25  # JPEG at the edges
                assert np.abs(pixels[cell] - 16).mean() < 3
            assert np.abs(pixels[~cell] - painted(shown.scene, stream)[~cell]).mean() < 4


def test_flickr30k_is_in_karpathys_form_and_every_caption_is_true(raw: Path, tasks: Tasks) -> None:
    content = json.loads((raw / "flickr30k/dataset_flickr30k.json").read_bytes())
    assert content["dataset"] == "flickr30k"
    images = content["images"]
    assert [image["imgid"] for image in images] == list(range(16 + 4 + 4))
    sentids = [sentence["sentid"] for image in images for sentence in image["sentences"]]
    assert sentids == list(range(5 * len(images))) == [i for image in images for i in image["sentids"]]
    for number, (split, gallery) in enumerate(tasks.gallery.items()):
        found = [image for image in images if image["split"] == split]
        for place_in_split, (image, shown) in enumerate(zip(found, gallery, strict=True)):
            stream = StreamId(tasks.seed, number, place_in_split, Purpose.GALLERY_PICTURES)
            pixels = pixels_of(raw / "flickr30k/flickr30k-images" / image["filename"])
            assert np.abs(pixels - painted(shown.scene, stream)).mean() < 4
            for sentence in image["sentences"]:
                assert sentence["tokens"] == sentence["raw"].split()
                assert true_of_whole(shown.scene, sentence["raw"])
