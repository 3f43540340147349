"""easy-VQA (github.com/vzhou842/easy-VQA, MIT): questions about one coloured shape, as one's own VQA data.

``python -m datamodules.easy_vqa --out data/easy_vqa/raw`` takes the data out of the package ``easy-vqa`` and writes
``train.jsonl``, ``val.jsonl``, ``test.jsonl`` and ``images/``, which ``python -m datamodules.prepare questions`` reads.
The set has no validation split: every tenth training picture, with all its questions, is one. ``names.jsonl`` holds
those training questions that ask for the name of a shape, for a first lesson; ``shapes/`` is a source of its own, with
those that a shape answers, by its name or by yes or no.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from vle_lightning.entry import enter

OFFICIAL = ("train", "test")
HELD_OUT = 10  # every tenth training picture
DATA = "easy_vqa/data/"  # in the package
YES_NO, SHAPES = ("yes", "no"), ("circle", "rectangle", "triangle")


def answer_type(answer: str) -> str:
    """Return the kind of an answer, by which scores are told apart: what is neither yes/no nor shape is a colour."""
    if answer in YES_NO:
        return "yes/no"
    return "shape" if answer in SHAPES else "colour"


def installed() -> Traversable:
    """Return the data of the installed package.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise FileNotFoundError("the package easy-vqa is not installed: pip install easy-vqa, or name its --wheel")
    return Path(found.origin).parent / "data"


def in_wheel(wheel: Path) -> Traversable:
    """Return the data inside a wheel of the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a wheel.
    """
    if not wheel.is_file():
        raise FileNotFoundError(f"--wheel {wheel}: no such file; pip download --no-deps easy-vqa fetches it")
    try:
        return zipfile.Path(wheel, DATA)
    except zipfile.BadZipFile as error:
        raise ValueError(f"--wheel {wheel} is not a wheel: {error}") from error


def read_questions(data: Traversable, split: str) -> Iterator[dict[str, Any]]:
    """Yield the questions of a split as rows of ``datamodules.prepare.questions``.

    Raises:
        FileNotFoundError: the split has no questions.
        ValueError: they are in another form.
    """
    file = data / split / "questions.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} not found: name the folder of easy-VQA that holds train/ and test/")
    try:
        for number, (question, answer, image) in enumerate(json.loads(file.read_bytes())):
            yield {
                "question_id": f"{split}-{number}",
                "image": f"images/{split}/{int(image)}.png",
                "question": question,
                "answers": [answer],
                "answer_type": answer_type(answer),
            }
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is not a list of [question, answer, image number] ({error})") from error


def write_pictures(data: Traversable, split: str, out: Path) -> None:
    """Copy the pictures of an official split."""
    folder = out / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    for image in (data / split / "images").iterdir():
        if image.name.endswith(".png"):
            (folder / image.name).write_bytes(image.read_bytes())


def divide(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Divide the training questions by their pictures, and take out those that a shape answers."""
    held_out = [int(Path(row["image"]).stem) % HELD_OUT == 0 for row in rows]
    kept = [row for row, is_held_out in zip(rows, held_out, strict=True) if not is_held_out]
    return {
        "train": kept,
        "val": [row for row, is_held_out in zip(rows, held_out, strict=True) if is_held_out],
        "names": [row for row in kept if row["answer_type"] == "shape"],
        "shapes/train": [row for row in kept if asks_for_shape(row)],
    }


def asks_for_shape(row: dict[str, Any]) -> bool:
    """Say whether the shape answers a question: what it is, or whether it is the one that the question names."""
    names_one = any(shape in row["question"] for shape in SHAPES)
    return row["answer_type"] == "shape" or (row["answer_type"] == "yes/no" and names_one)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the raw form; returns the exit code: 0, or 2 where the user has to fix something."""
    parser = argparse.ArgumentParser("python -m datamodules.easy_vqa", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/easy_vqa/raw"), help="the raw folder (%(default)s)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wheel", type=Path, help="take the data out of this file; by default, of what is installed")
    source.add_argument("--data", type=Path, help="take this folder, with train/ and test/")
    options = parser.parse_args(arguments)
    try:
        data = options.data or (in_wheel(options.wheel) if options.wheel else installed())
        found = {split: list(read_questions(data, split)) for split in OFFICIAL}
        for split in OFFICIAL:
            write_pictures(data, split, options.out)
        write_pictures(data, "train", options.out / "shapes")
        for split, rows in {**divide(found["train"]), "test": found["test"]}.items():
            file = options.out / f"{split}.jsonl"
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
            print(f"{file}: {len(rows):,} questions")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.easy_vqa", main))
