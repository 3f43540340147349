"""Small shard folders with real JPEGs, and a tokenizer, for tests of everything that reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.pretrain import PretrainDataModule
from datamodules.records import Kind, Question, Record, Text, VCRItem
from datamodules.tokenizers import train_tokenizer
from datamodules.writer import ShardFolderWriter

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "cross")
LINES = tuple(f"small {colour} {shape} above large cross" for colour in COLOURS for shape in SHAPES)
QUESTION = ("what", "colour", "is", (0,), "?")
ANSWERS = tuple(((0,), "is", colour) for colour in COLOURS)
RATIONALES = tuple(((1, 0), "are", colour, ".") for colour in COLOURS)


def picture(number: int, width: int = 48, height: int = 48) -> bytes:
    """Return a JPEG of noise."""
    pixels = np.random.default_rng(number).integers(256, size=(height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=90)
    return stream.getvalue()


def make_record(number: int) -> Record:
    """Return a record with two texts, one question and one VCR item."""
    colour, shape = COLOURS[number % 4], SHAPES[number % 3]
    return Record(
        image_id=f"toy/{number}",
        boxes=((0.0, 0.0, 0.25, 0.25), (0.5, 0.5, 1.0, 1.0), (0.25, 0.0, 0.5, 0.25)),
        names=(f"{colour} {shape}", "person", ""),
        texts=(
            Text(f"{number}a", f"small {colour} {shape}", (0,)),
            Text(f"{number}b", f"{colour} {shape} above large cross", None),
        ),
        questions=(Question(f"{number}", f"what colour is the {shape}", (colour,) * 3 + ("no",), "other", "what"),),
        vcr=(VCRItem(f"{number}", QUESTION, ANSWERS, number % 4, RATIONALES, (number + 1) % 4, "colour"),),
    )


def write_shards(
    folder: Path,
    kind: Kind,
    records: Iterable[Record],
    samples_per_shard: int = 8,
    images: dict[str, bytes] | None = None,
) -> None:
    """Write a shard folder; ``images`` replaces the pictures of some images by other bytes."""
    with ShardFolderWriter(folder, folder.parent.name, folder.name, kind, samples_per_shard) as writer:
        for number, record in enumerate(records):
            image = (images or {}).get(record.image_id, picture(number))
            writer.write(f"{number:05d}", image, "jpg", record)


def write_tokenizer(folder: Path) -> Path:
    """Train a tokenizer that knows the words of the records."""
    texts = [
        *LINES,
        "what colour is the circle",
        "what colour is the square",
        "Casey is red?",
        "person and cat are blue.",
    ]
    train_tokenizer(texts, folder, 120)
    return folder


def pretrain_module(shards: Path, tokenizer_folder: Path, **changes: object) -> PretrainDataModule:
    """Make a data module over the texts of ``shards``: two micro-batches of four a step, 48 px in patches of 8."""
    chosen: dict[str, Any] = {
        "root": str(shards),
        "sources": {"texts": 1.0},
        "tokenizer": str(tokenizer_folder),
        "batch_size": 4,
        "global_batch_size": 8,
        "image_size": 48,
        "patch_size": 8,
        "classes": ["red circle", "person"],
        "workers": 0,
    }
    return PretrainDataModule(**(chosen | changes))
