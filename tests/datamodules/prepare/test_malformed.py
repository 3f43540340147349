"""Whatever stands in a raw file: rows are left out and counted, or an error says where; nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.prepare.engine import dataset_classes
from datamodules.prepare.images import open_places, read_image
from datamodules.prepare.raw import Item, Order, T
from datamodules.prepare.rows import is_file_name, is_id, is_number, is_whole, read_json
from datamodules.records import Record
from datamodules.shards import SampleError
from datamodules.writer import KEY
from tests.datamodules.prepare.raw_files import picture, write_json, write_lines

TAGGED = ["Why", [0], "?"]
KARPATHY = [{"filename": "a.jpg", "split": "train", "cocoid": 5, "sentences": [{"sentid": 1, "raw": "a dog"}]}]
# By data set: its training files; a tuple is written as lines.
LAYOUTS: dict[str, dict[str, Any]] = {
    "coco": {
        "annotations/captions_train.json": {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 20} for i in (1, 2)],
            "annotations": [{"id": i, "image_id": i, "caption": "a dog", "mentions": [7]} for i in (1, 2)],
        },
        "annotations/instances_train.json": {
            "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 20}],
            "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 0}],
            "categories": [{"id": 3, "name": "dog"}],
        },
    },
    "visual_genome": {
        "image_data.json": [{"image_id": i, "width": 40, "height": 20, "coco_id": None} for i in (1, 2)],
        "region_descriptions.json": [
            {"id": 1, "regions": [{"region_id": 4, "x": 0, "y": 0, "width": 9, "height": 9, "phrase": "a dog"}]}
        ],
        "objects.json": [
            {"image_id": 1, "objects": [{"object_id": 3, "x": 0, "y": 0, "w": 9, "h": 9, "names": ["dog"]}]}
        ],
        "splits.json": {"train": [1, 2], "val": []},
    },
    "vqav2": {
        "v2_OpenEnded_mscoco_train2014_questions.json": {
            "questions": [{"question_id": i, "image_id": i, "question": "what?"} for i in (1, 2)]
        },
        "v2_mscoco_train2014_annotations.json": {
            "annotations": [
                {
                    "question_id": i,
                    "multiple_choice_answer": "yes",
                    "answers": [{"answer": "yes", "answer_id": 1}],
                    "answer_type": "yes/no",
                    "question_type": "is",
                }
                for i in (1, 2)
            ]
        },
    },
    "vcr": {
        "train.jsonl": (
            {
                "img_fn": "a.jpg",
                "metadata_fn": "a.json",
                "objects": ["dog"],
                "question": TAGGED,
                "answer_choices": [TAGGED] * 4,
                "rationale_choices": [TAGGED] * 4,
                "answer_label": 1,
                "rationale_label": 2,
                "annot_id": "train-0",
                "family": "why",
            },
        ),
        "vcr1images/a.json": {"boxes": [[0, 0, 9, 9, 0.5]], "names": ["dog"], "width": 40, "height": 20},
    },
    "flickr30k": {"dataset_flickr30k.json": {"dataset": "flickr30k", "images": KARPATHY}},
    "coco_karpathy": {"dataset_coco.json": {"dataset": "coco", "images": KARPATHY}},
    "snli_ve": {
        "snli_ve_train.jsonl": (
            {"Flickr30K_ID": "1", "pairID": "1#1", "gold_label": "neutral", "sentence2": "a dog"},
            {"Flickr30K_ID": "2", "pairID": "2#1", "gold_label": "-", "sentence2": "a dog"},
        )
    },
    "nlvr": {
        "train.json": (
            {"identifier": "1-0", "sentence": "a box", "label": "true", "directory": "5"},
            {"identifier": "2-0", "sentence": "a box", "label": "false", "image_prefix": "train-2-0"},
        )
    },
    "nlvr2": {"train.json": ({"identifier": "train-1-0-0", "sentence": "a", "label": "True", "directory": 3},)},
    "questions": {
        "train.jsonl": (
            {"question_id": 1, "image": "a.jpg", "question": "what?", "answers": ["dog"], "answer_type": "OPEN"},
            {"question_id": 2, "image": "b.jpg", "question": "what?", "answers": "cat"},
        )
    },
    "image_folder": {
        "train.jsonl": (
            {"image": "a.jpg", "captions": ["a dog", "b"], "boxes": [[0, 0, 9, 9]], "mentions": [[0], None]},
            {"image": "a.jpg", "caption": "a", "boxes": [[0, 0, 9, 9]], "names": ["dog"], "width": 40, "height": 20},
        )
    },
}
PICTURE = picture()
CLASSES = dataset_classes()
NASTY = ["", " ", "\0", "\ud800", "..", ".", "/", "a/../b", "x" * 300, "ü" * 150, "1-0", 1, True, 10**30, -1, 1e308]
VALUES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


class AsGiven(Order):
    """Keeps the order."""

    def __call__(self, ids: Iterable[T]) -> Sequence[T]:
        return list(ids)


def places(content: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    """Yield every container of parsed JSON with each of its keys or numbers."""
    for key in content if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list | tuple):
            yield from places(content[key])


def write_layout(src: Path, files: dict[str, Any]) -> None:
    """Write the files of a raw folder, and an image."""
    for folder in ("images", "vcr1images"):
        (src / folder).mkdir()
    (src / "a.jpg").write_bytes(PICTURE)
    for name, content in files.items():
        if isinstance(content, list) and name.endswith(("l", "train.json")):
            write_lines(src / name, content)
        else:
            write_json(src / name, content)


def read_all(name: str, files: dict[str, Any]) -> tuple[list[Item], list[str]]:
    """Read a raw folder as a conversion does; returns the items and the kinds of defects."""
    kinds = []

    def skip(kind: str, where: str) -> None:
        f"{kind} {where}".encode()  # both go into the manifest
        kinds.append(kind)

    with tempfile.TemporaryDirectory() as folder:
        src = Path(folder)
        write_layout(src, files)
        # few questions have no frequent answers
        dataset = CLASSES[name](src, **({"answers_with_val": False, "keep_unlisted": True} if name == "vqav2" else {}))
        items = list(dataset.items("train", AsGiven(), skip))
        dataset.finish(src)
        found = open_places(src, dataset.image_places("train"))
        for item in items:
            assert KEY.fullmatch(item.key)
            Record.from_json(item.record.to_json())
            for image in (item.image_name, item.right_name):
                with contextlib.suppress(SampleError):  # there is no such image
                    read_image(found, image or "a.jpg")
    return items, kinds


def unfrozen(files: dict[str, Any]) -> dict[str, Any]:
    """Return a copy whose lines can be changed."""
    return copy.deepcopy({name: list(rows) if isinstance(rows, tuple) else rows for name, rows in files.items()})


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_are_sound(name: str) -> None:
    items, kinds = read_all(name, unfrozen(LAYOUTS[name]))
    assert items
    assert set(kinds) <= {"no gold label", "no caption"}


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_anywhere_is_counted_or_named(name: str, data: st.DataObject) -> None:
    files = unfrozen(LAYOUTS[name])
    spots = [spot for content in files.values() for spot in places(content)]
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = spots[data.draw(st.integers(0, len(spots) - 1))]
        container[key] = data.draw(VALUES)
    message = ""
    try:
        read_all(name, files)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    assert not message or any(Path(file).name in message for file in files), message


@pytest.mark.parametrize(
    ("value", "as_id", "as_whole", "as_number", "as_file"),
    [
        (1, True, True, True, False),
        (1.0, False, False, True, False),
        (True, False, False, False, False),
        (float("nan"), False, False, False, False),
        (float("inf"), False, False, False, False),
        (10**400, False, False, False, False),
        ("a/b c.jpg", True, False, False, True),
        ("ü" * 120, False, False, False, True),
        ("ü" * 121, False, False, False, False),
        ("a\0b", False, False, False, False),
        ("\ud800", False, False, False, False),
        (" ", False, False, False, True),
        ("", False, False, False, False),
        (["a"], False, False, False, False),
        (None, False, False, False, False),
    ],
)
def test_what_a_value_may_be(value: object, as_id: bool, as_whole: bool, as_number: bool, as_file: bool) -> None:
    assert (is_id(value), is_whole(value), is_number(value), is_file_name(value)) == (
        as_id,
        as_whole,
        as_number,
        as_file,
    )


def test_json_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json is not JSON"):
        read_json(tmp_path / "deep.json")
