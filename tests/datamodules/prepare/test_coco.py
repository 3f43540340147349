"""COCO: captions keep the boxes that they mention, and every defect is counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.coco import MentionRule, plural
from datamodules.prepare.synonyms import SYNONYMS
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import picture, real_folder, records_of, skipped, write_images, write_json

TRAIN = Options(splits=("train",))
CATEGORIES: list[dict[str, Any]] = [
    {"id": 18, "name": "dog"},
    {"id": 1, "name": "person"},
    {"id": 58, "name": "hot dog"},
]


def write_coco(
    src: Path,
    captions: list[dict[str, Any]],
    instances: list[dict[str, Any]],
    images: int = 1,
    year: str = "2017",
) -> None:
    """Write a training split of images of 40 x 20, numbered from 1; fields that all share are filled in."""
    listed: list[dict[str, Any]] = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 20} for i in range(1, images + 1)
    ]
    captions = [{"id": 100 + i, "image_id": 1, **row} for i, row in enumerate(captions)]
    common = {"image_id": 1, "category_id": 18, "iscrowd": 0, "bbox": [0, 0, 10, 10]}
    instances = [{"id": 200 + i, **common, **row} for i, row in enumerate(instances)]
    folder = src / "annotations"
    write_json(folder / f"captions_train{year}.json", {"images": listed, "annotations": captions})
    content = {"images": listed, "annotations": instances, "categories": CATEGORIES}
    write_json(folder / f"instances_train{year}.json", content)
    write_images(src / "images", *(row["file_name"] for row in listed))


def test_captions_mention_boxes(tmp_path: Path) -> None:
    boxes: list[dict[str, Any]] = [{"bbox": [4, 5, 10, 5]}, {"category_id": 1, "bbox": [0, 0, 40, 20]}]
    captions = [
        {"caption": " A man\nwalks. "},
        {"caption": "Two puppies and a woman"},
        {"caption": "A street"},
    ]
    write_coco(tmp_path, captions, boxes)
    convert("coco", tmp_path, tmp_path / "out", TRAIN)
    record = records_of(tmp_path / "out" / "coco" / "train")["coco/1"]
    assert record.boxes == ((0.1, 0.25, 0.35, 0.5), (0.0, 0.0, 1.0, 1.0))
    assert record.names == ("dog", "person")
    assert [(text.id, text.text, text.boxes) for text in record.texts] == [
        ("100", "A man walks.", (1,)),
        ("101", "Two puppies and a woman", (0, 1)),
        ("102", "A street", None),
    ]


def test_what_a_caption_says_that_it_mentions_wins(tmp_path: Path) -> None:
    captions: list[dict[str, Any]] = [
        {"caption": "a dog", "mentions": [201]},
        {"caption": "a dog", "mentions": []},
    ]
    write_coco(tmp_path, captions, [{}, {"category_id": 1}], year="")
    convert("coco", tmp_path, tmp_path / "out", TRAIN)
    record = records_of(tmp_path / "out" / "coco" / "train")["coco/1"]
    assert [text.boxes for text in record.texts] == [(1,), None]


def test_every_defect_is_counted_and_none_stops_the_rest(tmp_path: Path) -> None:
    captions: list[dict[str, Any]] = [{"caption": "a dog"}, {"caption": "  "}, {"caption": None}]
    captions += [{"caption": "a dog", "image_id": image} for image in (3, 4, 99)]
    boxes: list[dict[str, Any]] = [
        {"bbox": [5, 5, 10, 10]},
        {"bbox": [5, 5, 0, 10]},
        {"bbox": [5, 5, 10, -3]},
        {"bbox": [40, 5, 10, 10]},
        {"bbox": [-10, 5, 10, 10]},
        {"bbox": [30, 10, 20, 20]},
        {"bbox": [30, 10, 10.5, 10]},
        {"bbox": [1, 2, None, 4]},
        {"bbox": [1, 2, 3]},
        {"category_id": 77},
        {"iscrowd": 1},
    ]
    write_coco(tmp_path, captions, boxes, images=4)
    (tmp_path / "images" / f"{3:012d}.jpg").unlink()
    (tmp_path / "images" / f"{4:012d}.jpg").write_bytes(picture()[:300])
    convert("coco", tmp_path, tmp_path / "out", TRAIN)
    folder = ShardFolder(tmp_path / "out" / "coco" / "train")
    assert folder.manifest.skipped == {
        "box of zero area": 2,
        "box outside the image": 2,
        "box clipped": 1,
        "box without numbers": 2,
        "unknown class id": 1,
        "crowd box": 1,
        "empty caption": 2,
        "no caption": 1,
        "unknown image id": 1,
        "missing image": 1,
        "unreadable image": 1,
    }
    assert {"kind": "missing image", "where": f"{3:012d}.jpg"} in folder.manifest.skips
    record = folder.read(0, 0).record
    assert record.boxes == ((0.125, 0.25, 0.375, 0.75), (0.75, 0.5, 1.0, 1.0), (0.75, 0.5, 1.0, 1.0))
    assert len(folder) == folder.manifest.images == 1


def test_rows_of_wrong_types_are_counted(tmp_path: Path) -> None:
    captions: list[dict[str, Any]] = [
        {"caption": "a dog", "mentions": None},
        {"caption": "a dog", "image_id": [1]},
        {"caption": "a dog", "id": 100},
        {"caption": ["a dog"]},
    ]
    boxes: list[dict[str, Any]] = [{}, {"category_id": [1]}, {"id": 200}, {"bbox": None}, {"bbox": [0, 0, 1, True]}]
    write_coco(tmp_path, captions, boxes)
    convert("coco", tmp_path, tmp_path / "out", TRAIN)
    folder = tmp_path / "out" / "coco" / "train"
    (record,) = records_of(folder).values()
    assert [(text.id, text.boxes) for text in record.texts] == [("100", None)]
    assert len(record.boxes) == 1
    assert skipped(folder) == {
        "field of a wrong type": 2,
        "id given twice": 2,
        "mentions that are no list": 1,
        "empty caption": 1,
        "box without numbers": 2,
    }
    wheres = [skip["where"] for skip in ShardFolder(folder).manifest.skips if skip["kind"] == "field of a wrong type"]
    assert any("captions_train2017.json, 'annotations', row 1: 'image_id' is [1], not an id" in at for at in wheres)


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.slow), "val"])
def test_the_real_photos_are_counted_exactly(tmp_path: Path, split: str) -> None:
    src = real_folder("coco")
    captions = json.loads((src / "annotations" / f"captions_{split}.json").read_text())
    instances = json.loads((src / "annotations" / f"instances_{split}.json").read_text())
    captioned = {row["image_id"] for row in captions["annotations"]}
    listed = {row["id"] for row in captions["images"]} | {row["id"] for row in instances["images"]}
    convert("coco", src, tmp_path, Options(splits=(split,), workers=1))
    manifest = ShardFolder(tmp_path / "coco" / split).manifest
    assert (manifest.images, manifest.samples) == (len(captioned), len(captions["annotations"]))
    crowds = [row for row in instances["annotations"] if row["image_id"] in listed and row["iscrowd"]]
    assert manifest.skipped.get("crowd box", 0) == len(crowds)
    assert manifest.skipped.get("no caption", 0) == len(listed - captioned)
    usable = [r for r in instances["annotations"] if r["image_id"] in captioned and not r["iscrowd"]]
    assert manifest.boxes == len(usable)


def test_the_same_bytes_each_run_with_any_number_of_workers(tmp_path: Path) -> None:
    images = 200
    captions = [{"caption": f"a dog {image}", "image_id": image} for image in range(1, images + 1)]
    write_coco(tmp_path, captions, [{}], images=images)
    for workers in (1, 3):
        options = Options(splits=("train",), workers=workers, samples_per_shard=50)
        convert("coco", tmp_path, tmp_path / str(workers), options)
    first, second = (sorted((tmp_path / name / "coco" / "train").iterdir()) for name in ("1", "3"))
    assert len(first) == 9
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_seed_and_limit_choose_the_images(tmp_path: Path) -> None:
    captions = [{"caption": "a dog", "image_id": image} for image in range(1, 31)]
    write_coco(tmp_path, captions, [{}], images=30)
    chosen = []
    for seed in (0, 1):
        options = Options(splits=("train",), seed=seed, limit=10)
        convert("coco", tmp_path, tmp_path / str(seed), options)
        chosen.append(set(records_of(tmp_path / str(seed) / "coco" / "train")))
    assert [len(ids) for ids in chosen] == [10, 10]
    assert chosen[0] != chosen[1]


def test_scaling_leaves_the_boxes_where_they_are(tmp_path: Path) -> None:
    write_coco(tmp_path, [{"caption": "a dog"}], [{"bbox": [4, 5, 10, 5]}])
    convert("coco", tmp_path, tmp_path / "out", Options(splits=("train",), longest_side=20))
    sample = ShardFolder(tmp_path / "out" / "coco" / "train").read(0, 0)
    assert sample.record.boxes == ((0.1, 0.25, 0.35, 0.5),)
    assert len(sample.image) < len((tmp_path / "images" / f"{1:012d}.jpg").read_bytes())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions_train2017.json", None, r"none of captions_train2017\.json, captions_train2014\.json"),
        ("instances_train2017.json", None, r"instances_train2017\.json not found"),
        (
            "captions_train2017.json",
            {"images": []},
            r"captions_train2017\.json: a JSON object with the key 'annotations' is needed",
        ),
        (
            "captions_train2017.json",
            {"images": [{"id": 1}]},
            r"'images', row 0: keys \['file_name', 'height', 'width'\]",
        ),
        ("instances_train2017.json", {"images": 3}, r"'images': a list of objects is needed"),
    ],
)
def test_files_in_another_layout_are_named(tmp_path: Path, name: str, content: object, message: str) -> None:
    write_coco(tmp_path, [{"caption": "a dog"}], [{}])
    path = tmp_path / "annotations" / name
    path.unlink()
    if content is not None:
        write_json(path, content)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        convert("coco", tmp_path, tmp_path / "out", TRAIN)
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_broken_json_and_missing_images_are_named(tmp_path: Path) -> None:
    write_coco(tmp_path, [{"caption": "a dog"}], [{}])
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"captions_train2017\.json is not JSON"):
        convert("coco", tmp_path, tmp_path / "out", TRAIN)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="no images: none of images"):
        convert("coco", tmp_path, tmp_path / "out", TRAIN)


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("A DOG.", {"dog"}),
        ("dogs, people", {"dog", "person"}),
        ("a hot dog", {"hot dog"}),
        ("hot dogs for the dog", {"hot dog", "dog"}),
        ("dogma of a humane mandate", set()),
        ("the lady's puppy", {"person", "dog"}),
        ("two ladies", {"person"}),
    ],
)
def test_a_class_is_mentioned_by_name_plural_or_synonym(caption: str, classes: set[str]) -> None:
    assert MentionRule(row["name"] for row in CATEGORIES).classes_in(caption) == classes


def test_a_word_may_name_two_classes() -> None:
    assert MentionRule(["bicycle", "motorcycle"]).classes_in("bikes") == {"bicycle", "motorcycle"}


def test_plurals_and_the_synonym_list() -> None:
    words = {
        "bus": "buses",
        "bench": "benches",
        "puppy": "puppies",
        "toy": "toys",
        "wine glass": "wine glasses",
    }
    assert {word: plural(word) for word in words} == words
    for name, nouns in SYNONYMS.items():
        assert name not in nouns
        assert len(set(nouns)) == len(nouns)
        assert all(noun == noun.lower().strip() for noun in nouns)
