"""Writes the world in the official raw layouts of COCO, Visual Genome, VQAv2 and VCR.

One key is not official: ``mentions`` in COCO's caption annotations, the ids of the instances that the caption
mentions; in real data they have to be guessed from names. VCR rows also say their ``family``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.toy.pictures import FILES_PER_TASK, coco_name, picture_paths, write_pictures
from datamodules.toy.questions import Question
from datamodules.toy.scenes import Description, Split
from datamodules.toy.workers import Workers
from datamodules.toy.world import CLASSES, SCENE_PIXELS, SHAPES

IDS_PER_IMAGE = 10  # an image's captions, objects, regions, questions: id = image id * 10 + number

World = Mapping[Split, Sequence[Description]]


def write_layouts(raw: Path, world: World, workers: Workers) -> None:
    """Write all layouts, pictures included.

    Args:
        raw: Gets the folders coco, visual_genome, relations (in Visual Genome's layout), vqav2 and vcr.
        world: The descriptions of each split.
        workers: Paint the pictures and write what there is one file an image of.
    """
    every = [description for descriptions in world.values() for description in descriptions]
    write_pictures(raw, every, workers)
    workers.map(functools.partial(_write_vcr_metadata, raw), every, FILES_PER_TASK)
    for split, descriptions in world.items():
        _write_coco(raw / "coco/annotations", split, descriptions)
        _write_vqav2(raw / "vqav2", split, descriptions)
        _write_vcr(raw, split, descriptions)
    _write_visual_genome(raw / "visual_genome", world, lambda description: description.regions)
    related = {split: [d for d in descriptions if any(d.relations)] for split, descriptions in world.items()}
    _write_visual_genome(raw / "relations", related, lambda description: description.relations)


def _write_coco(folder: Path, split: Split, descriptions: Sequence[Description]) -> None:
    images = [
        {"id": d.image_id, "file_name": coco_name(d.image_id), "width": SCENE_PIXELS, "height": SCENE_PIXELS}
        for d in descriptions
    ]
    captions = [
        {
            "id": _id(d, number),
            "image_id": d.image_id,
            "caption": caption.text,
            "mentions": [_id(d, i) for i in caption.objects],
        }
        for d in descriptions
        for number, caption in enumerate(d.captions)
    ]
    instances = [
        {
            "id": _id(d, number),
            "image_id": d.image_id,
            "category_id": item.class_id + 1,
            "bbox": [item.x, item.y, item.pixels, item.pixels],
            "area": item.pixels**2,
            "iscrowd": 0,
        }
        for d in descriptions
        for number, item in enumerate(d.scene.objects)
    ]
    categories = [
        {"id": number + 1, "name": name, "supercategory": SHAPES[number % len(SHAPES)]}
        for number, name in enumerate(CLASSES)
    ]
    write_json(folder / f"captions_{split}.json", {"images": images, "annotations": captions})
    content = {"images": images, "annotations": instances, "categories": categories}
    write_json(folder / f"instances_{split}.json", content)


def _write_visual_genome(folder: Path, world: World, phrases: Callable[[Description], Sequence[str | None]]) -> None:
    every = [description for descriptions in world.values() for description in descriptions]
    splits = {split: [d.image_id for d in descriptions] for split, descriptions in world.items()}
    images = [
        {"image_id": d.image_id, "width": SCENE_PIXELS, "height": SCENE_PIXELS, "coco_id": d.image_id} for d in every
    ]
    objects = [{"image_id": d.image_id, "objects": _genome_objects(d)} for d in every]
    regions = [{"id": d.image_id, "regions": _genome_regions(d, phrases(d))} for d in every]
    write_json(folder / "splits.json", splits)
    write_json(folder / "image_data.json", images)
    write_json(folder / "objects.json", objects)
    write_json(folder / "region_descriptions.json", regions)


def _genome_objects(description: Description) -> list[dict[str, Any]]:
    return [
        {
            "object_id": _id(description, number),
            "x": item.x,
            "y": item.y,
            "w": item.pixels,
            "h": item.pixels,
            "names": [item.class_name],
            "synsets": [],
        }
        for number, item in enumerate(description.scene.objects)
    ]


def _genome_regions(description: Description, phrases: Sequence[str | None]) -> list[dict[str, Any]]:
    return [
        {
            "region_id": _id(description, number),
            "image_id": description.image_id,
            "x": item.x,
            "y": item.y,
            "width": item.pixels,
            "height": item.pixels,
            "phrase": words,
        }
        for number, (item, words) in enumerate(zip(description.scene.objects, phrases, strict=True))
        if words is not None
    ]


def _write_vqav2(folder: Path, split: Split, descriptions: Sequence[Description]) -> None:
    head = {"data_type": "mscoco", "data_subtype": f"{split}2014"}
    questions, annotations = [], []
    for description in descriptions:
        for number, question in enumerate(description.questions):
            ids = {"image_id": description.image_id, "question_id": _id(description, number)}
            questions.append({**ids, "question": question.text})
            annotations.append({**ids, **_annotation(question)})
    write_json(
        folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json",
        {**head, "task_type": "Open-Ended", "questions": questions},
    )
    write_json(folder / f"v2_mscoco_{split}2014_annotations.json", {**head, "annotations": annotations})


def _annotation(question: Question) -> dict[str, Any]:
    answers = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
        for number, answer in enumerate(question.answers)
    ]
    return {
        "question_type": question.question_type,
        "answer_type": question.answer_type,
        "multiple_choice_answer": question.truth,
        "answers": answers,
    }


def _write_vcr(raw: Path, split: Split, descriptions: Sequence[Description]) -> None:
    images = raw / "vcr/vcr1images"
    rows: list[dict[str, Any]] = []
    for description in descriptions:
        picture = picture_paths(raw, description)[-1].relative_to(images)
        for number, item in enumerate(description.vcr):
            rows.append(
                {
                    "movie": "toy",
                    "objects": _names(description),
                    "img_fn": picture.as_posix(),
                    "metadata_fn": picture.with_suffix(".json").as_posix(),
                    "question_number": number,
                    "annot_id": f"{split}-{len(rows)}",
                    **vars(item),
                }
            )
    (raw / f"vcr/{split}.jsonl").write_text("".join(dump(row) + "\n" for row in rows), encoding="utf-8")


def _write_vcr_metadata(raw: Path, description: Description) -> None:
    boxes = [[*item.box, 1.0] for item in description.scene.objects]
    content = {
        "boxes": boxes,
        "names": _names(description),
        "segms": [[] for _ in boxes],
        "width": SCENE_PIXELS,
        "height": SCENE_PIXELS,
    }
    picture_paths(raw, description)[-1].with_suffix(".json").write_text(dump(content), encoding="utf-8")


def _names(description: Description) -> list[str]:
    return [SHAPES[item.shape] for item in description.scene.objects]


def _id(description: Description, number: int) -> int:
    return description.image_id * IDS_PER_IMAGE + number


def write_json(path: Path, content: Mapping[str, Any] | Iterable[Any]) -> None:
    """Write JSON, with the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(content), encoding="utf-8")


def dump(content: Mapping[str, Any] | Iterable[Any]) -> str:
    """Return JSON with sorted keys, compact: equal contents give equal bytes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
