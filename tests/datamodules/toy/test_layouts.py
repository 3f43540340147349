"""The raw layouts: official files, official keys, and the same pictures in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from datamodules.toy.layouts import write_layouts
from datamodules.toy.pictures import picture_paths, write_pictures
from datamodules.toy.scenes import SPLITS, Description, Purpose, Split, describe, draw_world
from datamodules.toy.workers import Workers
from datamodules.toy.world import CLASSES, render

SIZES: dict[Split, int] = {"train": 12, "val": 4}


@pytest.fixture(scope="module")
def described() -> list[Description]:
    return [describe(drawn) for drawn in draw_world(0, SIZES)]


@pytest.fixture(scope="module")
def raw(described: list[Description], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "raw"
    write_layouts(folder, {s: [d for d in described if d.scene_id.split == s] for s in SPLITS}, Workers(1))
    return folder


def read(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_bytes())


def test_coco_says_boxes_classes_and_mentions(raw: Path, described: list[Description]) -> None:
    for split in SPLITS:
        instances = read(raw / f"coco/annotations/instances_{split}.json")
        captions = read(raw / f"coco/annotations/captions_{split}.json")
        names = {category["id"]: category["name"] for category in instances["categories"]}
        assert tuple(names.values()) == CLASSES
        boxes = {a["id"]: (a["image_id"], names[a["category_id"]], a["bbox"]) for a in instances["annotations"]}
        assert len(boxes) == len(instances["annotations"])
        rows = iter(captions["annotations"])
        for description in (d for d in described if d.scene_id.split == split):
            for caption in description.captions:
                row = next(rows)
                assert (row["image_id"], row["caption"]) == (description.image_id, caption.text)
                for mention, number in zip(row["mentions"], caption.objects, strict=True):
                    item = description.scene.objects[number]
                    box = [item.x, item.y, item.pixels, item.pixels]
                    assert boxes[mention] == (description.image_id, item.class_name, box)
        assert {image["file_name"] for image in instances["images"]} <= {
            p.name for p in (raw / "coco/images").iterdir()
        }


def test_visual_genome_has_one_region_an_object(raw: Path, described: list[Description]) -> None:
    folder = raw / "visual_genome"
    splits = read(folder / "splits.json")
    assert [len(splits[split]) for split in SPLITS] == [12, 4]
    for entry, regions, description in zip(
        read(folder / "objects.json"), read(folder / "region_descriptions.json"), described, strict=True
    ):
        assert entry["image_id"] == regions["id"] == description.image_id
        for thing, region, item in zip(entry["objects"], regions["regions"], description.scene.objects, strict=True):
            assert thing["names"] == [item.class_name]
            assert (thing["x"], thing["y"], thing["w"], thing["h"]) == (
                item.x,
                item.y,
                item.pixels,
                item.pixels,
            )
            assert (region["x"], region["y"], region["width"]) == (item.x, item.y, item.pixels)
            assert region["phrase"] in description.regions


def test_relations_are_regions_of_the_same_images(raw: Path, described: list[Description]) -> None:
    told = {
        entry["id"]: {(region["x"], region["y"]): region["phrase"] for region in entry["regions"]}
        for entry in read(raw / "relations/region_descriptions.json")
    }
    expected = {
        description.image_id: {
            (item.x, item.y): words
            for item, words in zip(description.scene.objects, description.relations, strict=True)
            if words is not None
        }
        for description in described
    }
    assert told == {image_id: words for image_id, words in expected.items() if words}


def test_vqav2_pairs_questions_with_ten_answers(raw: Path) -> None:
    for split in SPLITS:
        questions = read(raw / f"vqav2/v2_OpenEnded_mscoco_{split}2014_questions.json")["questions"]
        annotations = read(raw / f"vqav2/v2_mscoco_{split}2014_annotations.json")["annotations"]
        assert len(questions) == 3 * SIZES[split]
        assert len({question["question_id"] for question in questions}) == len(questions)
        for question, annotation in zip(questions, annotations, strict=True):
            assert question["question_id"] == annotation["question_id"]
            assert question["question"].startswith(annotation["question_type"])
            given = [answer["answer"] for answer in annotation["answers"]]
            assert len(given) == 10
            assert given.count(annotation["multiple_choice_answer"]) > 5
            assert (raw / f"vqav2/{split}2014/COCO_{split}2014_{question['image_id']:012d}.jpg").is_file()


def test_vcr_rows_name_their_files_and_objects(raw: Path, described: list[Description]) -> None:
    by_id = {description.image_id: description for description in described}
    for split in SPLITS:
        rows = [json.loads(line) for line in (raw / f"vcr/{split}.jsonl").read_text().splitlines()]
        assert [row["annot_id"] for row in rows] == [f"{split}-{number}" for number in range(2 * SIZES[split])]
        for row in rows:
            images = raw / "vcr/vcr1images"
            assert (images / row["img_fn"]).is_file()
            metadata = read(images / row["metadata_fn"])
            objects = by_id[int(Path(row["img_fn"]).stem)].scene.objects
            assert metadata["names"] == row["objects"]
            assert [tuple(box[:4]) for box in metadata["boxes"]] == [item.box for item in objects]
            assert len(row["answer_choices"]) == len(row["rationale_choices"]) == 4


def test_pictures_keep_their_colours_and_are_shared(raw: Path, described: list[Description]) -> None:
    for description in described:
        paths = picture_paths(raw, description)
        assert len({path.read_bytes() for path in paths}) == 1
        with Image.open(paths[0]) as image:
            assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
            found = np.asarray(image).astype(float)
        wanted = render(description.scene, description.scene_id.stream(Purpose.PICTURE))
        assert np.abs(found - wanted).mean() < 4


def test_pictures_are_copied_where_links_are_refused(
    described: list[Description], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    write_pictures(tmp_path, described[:1], Workers(1))
    assert len({path.read_bytes() for path in picture_paths(tmp_path, described[0])}) == 1


def test_two_processes_write_the_same_as_one(raw: Path, described: list[Description], tmp_path: Path) -> None:
    with Workers(2) as workers:
        assert workers.map(describe, draw_world(0, SIZES), 5) == described
        write_pictures(tmp_path, described, workers)
    for description in described:
        assert picture_paths(tmp_path, description)[0].read_bytes() == picture_paths(raw, description)[0].read_bytes()
