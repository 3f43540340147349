"""Writes the tasks in the official raw layouts of NLVR2, SNLI-VE and Flickr30k in Karpathy's form.

As in NLVR2 itself, files called .png hold JPEGs. Its training pairs are the world's training pictures, linked;
all other pictures are painted here. The addresses of a pair are the numbers of its scenes in the split's pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.toy.entailment import CoveredScene
from datamodules.toy.gallery import WholeCaption
from datamodules.toy.layouts import dump, write_json
from datamodules.toy.pairs import SIDES
from datamodules.toy.pictures import FILES_PER_TASK, Painting, coco_name, link, paint
from datamodules.toy.scenes import Purpose, StreamId
from datamodules.toy.tasks import PairSplit, Tasks
from datamodules.toy.workers import Workers

DIRECTORIES = 10  # of NLVR2's training pictures


def write_task_layouts(raw: Path, tasks: Tasks, workers: Workers) -> None:
    """Write the three layouts, pictures included.

    Args:
        raw: Gets the folders nlvr2, snli_ve and flickr30k; ``coco/images`` holds the world's pictures already.
        tasks: What to write.
        workers: Paint the pictures.
    """
    for number, (split, pairs) in enumerate(tasks.pairs.items()):
        _write_pair_pictures(raw, split, pairs, StreamId(tasks.seed, number, 0, Purpose.PAIR_PICTURES), workers)
        _write_lines(raw / f"nlvr2/{split}.json", _pair_rows(split, pairs))
    _paint_all(_covered_paintings(raw / "snli_ve/flickr30k_images", tasks), workers)
    for split, covered in tasks.covered.items():
        _write_lines(raw / f"snli_ve/snli_ve_{split}.jsonl", _hypothesis_rows(split, covered))
    _paint_all(_gallery_paintings(raw / "flickr30k/flickr30k-images", tasks), workers)
    images = [row | {"imgid": number} for number, row in enumerate(_gallery_rows(tasks))]
    write_json(raw / "flickr30k/dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})


def _paint_all(paintings: Iterable[Painting], workers: Workers) -> None:
    todo = list(paintings)
    _make_folders(painting.path for painting in todo)
    workers.map(paint, todo, FILES_PER_TASK)


def _make_folders(paths: Iterable[Path]) -> None:
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)


def _write_pair_pictures(raw: Path, split: str, pairs: PairSplit, stream: StreamId, workers: Workers) -> None:
    """Paint each scene once, unless the world has, and give it a name for each time that it is shown."""
    shown = [
        (_pair_folder(raw / "nlvr2", split, number) / f"{split}-{number}-{place}-img{side}.png", scene)
        for number, block in enumerate(pairs.blocks)
        for place, pair in enumerate(block.pairs)
        for side, scene in enumerate(pair.scenes)
    ]
    if split == "train":
        originals = {scene: raw / "coco/images" / coco_name(scene + 1) for _, scene in shown}  # ids count from 1
        _make_folders(path for path, _ in shown)
    else:
        originals = {scene: path for path, scene in reversed(shown)}
        todo = (Painting(path, pairs.pool[i], stream._replace(number=i)) for i, path in originals.items())
        _paint_all(todo, workers)
    for path, scene in shown:
        if path != originals[scene]:
            link(originals[scene], path)


def _pair_folder(nlvr2: Path, split: str, block: int) -> Path:
    return nlvr2 / "images/train" / str(block % DIRECTORIES) if split == "train" else nlvr2 / split


def _pair_rows(split: str, pairs: PairSplit) -> Iterator[dict[str, Any]]:
    for number, block in enumerate(pairs.blocks):
        directory = {"directory": number % DIRECTORIES} if split == "train" else {}
        for spoken, statement in enumerate(block.statements()):
            for place, (pair, label) in enumerate(zip(block.pairs, statement.labels, strict=True)):
                yield {
                    "identifier": f"{split}-{number}-{place}-{spoken}",
                    "sentence": statement.text,
                    "label": str(label),
                    **{f"{side}_url": str(scene) for side, scene in zip(SIDES, pair.scenes, strict=True)},
                    **directory,
                }


def _covered_paintings(folder: Path, tasks: Tasks) -> Iterator[Painting]:
    for place, (split, covered) in enumerate(tasks.covered.items()):
        for number, shown in enumerate(covered):
            stream = StreamId(tasks.seed, place, number, Purpose.COVERED_PICTURES)
            yield Painting(folder / _covered_name(split, number), shown.scene, stream, shown.cover)


def _covered_name(split: str, number: int) -> str:
    return f"covered_{split}_{number:05d}.jpg"  # SNLI-VE and Flickr30k share image ids: no name may mean two pictures


def _hypothesis_rows(split: str, covered: list[CoveredScene]) -> Iterator[dict[str, Any]]:
    for number, shown in enumerate(covered):
        name = _covered_name(split, number)
        for spoken, hypothesis in enumerate(shown.hypotheses):
            yield {
                "Flickr30K_ID": name.removesuffix(".jpg"),
                "captionID": f"{name}#0",
                "pairID": f"{name}#0r{spoken}",
                "sentence2": hypothesis.text,
                "gold_label": hypothesis.label,
                "annotator_labels": [hypothesis.label],
            }


def _gallery_paintings(folder: Path, tasks: Tasks) -> Iterator[Painting]:
    for place, (split, gallery) in enumerate(tasks.gallery.items()):
        for number, shown in enumerate(gallery):
            stream = StreamId(tasks.seed, place, number, Purpose.GALLERY_PICTURES)
            yield Painting(folder / _gallery_name(split, number), shown.scene, stream)


def _gallery_name(split: str, number: int) -> str:
    return f"gallery_{split}_{number:05d}.jpg"


def _gallery_rows(tasks: Tasks) -> Iterator[dict[str, Any]]:
    """Yield an image of the Karpathy form after the other, all splits in one row."""
    sentid = 0
    for split, gallery in tasks.gallery.items():
        for number, shown in enumerate(gallery):
            sentences = [_sentence(caption, sentid + i) for i, caption in enumerate(shown.captions)]
            sentid += len(sentences)
            sentids = [sentence["sentid"] for sentence in sentences]
            yield {
                "filename": _gallery_name(split, number),
                "split": split,
                "sentids": sentids,
                "sentences": sentences,
            }


def _sentence(caption: WholeCaption, sentid: int) -> dict[str, Any]:
    return {"raw": caption.text, "tokens": caption.text.split(), "sentid": sentid}


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(dump(row) + "\n" for row in rows), encoding="utf-8")
