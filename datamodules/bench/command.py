"""Measure how fast the stream makes batches, and print it: a line each, then as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import torch

from datamodules.bench.photos import CAPTIONS, take_photos, write_photos
from datamodules.bench.ways import (
    best_of_alternating,
    decode_batch,
    delivered,
    loader_of,
    micro_batch,
    pillow_batch,
    stream_batch,
    whole_records,
)
from datamodules.shards import SampleError, ShardFolder
from datamodules.tokenizers import train_tokenizer
from datamodules.transforms import ImageTransform

Photos: TypeAlias = list[tuple[bytes, str]]
VOCABULARY = 200


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.bench", description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of images, tar or shard folder; drawn ones by default")
    parser.add_argument("--count", type=int, default=32, help="photos of a turn; also the batch")
    parser.add_argument("--image-size", type=int, default=224, help="pixels, a multiple of 16")
    parser.add_argument("--repeats", type=int, default=20, help="turns of each way, alternating; the best counts")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="loading processes")
    parser.add_argument(
        "--demand",
        type=float,
        nargs="*",
        default=[100.0, 300.0],
        help="samples/s that a device trains: the share of its time spent waiting for data is measured for each",
    )
    options = parser.parse_args()
    for name, least in {"count": 2, "image_size": 16, "repeats": 1, "workers": 1}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least {least}")
    if options.image_size % 16:
        parser.error(f"--image-size is {options.image_size}; give a multiple of 16, the patches' size")
    if any(not rate > 0 for rate in options.demand):
        parser.error(f"--demand is {options.demand}; give rates above 0")
    return options


def bench_core(photos: Photos, folder: ShardFolder, tokenizer: str, size: int, repeats: int) -> dict[str, float]:
    """Time everything on one core, in turn: images/s, and the ratios that matter."""
    encoded = [photo for photo, _ in photos]
    rows = range(0, len(photos) * CAPTIONS, CAPTIONS)
    records, which, transform = whole_records(folder, tokenizer, size), micro_batch(rows), ImageTransform(size)
    best = best_of_alternating(
        {
            "pillow": lambda: pillow_batch(encoded, size),
            "decoding": lambda: decode_batch(encoded),
            "image_path": lambda: stream_batch(folder, rows, transform),
            "record": lambda: records[which],
        },
        repeats,
    )
    results = {f"images_per_second/{name}": len(photos) / seconds for name, seconds in best.items()}
    results["image_path_vs_pillow"] = best["pillow"] / best["image_path"]
    results["image_path_vs_decoding"] = best["decoding"] / best["image_path"]
    return results


def bench_loader(
    folder: ShardFolder, tokenizer: str, size: int, batch_size: int, workers: int, demands: list[float]
) -> Iterator[tuple[str, float]]:
    """Time whole records through the training loader: samples/s, and what devices of these rates wait."""
    with closing(loader_of(whole_records(folder, tokenizer, size), batch_size, workers)) as loader:
        yield "workers", float(workers)
        yield "samples_per_second/loader", max(delivered(loader)[0] for _ in range(2))
        for demand in demands:
            _, share = delivered(loader, batch_size / demand)
            yield f"data_wait_share/{demand:g}_per_second", share


def bench(options: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield name and value of everything that is measured.

    Raises:
        FileNotFoundError: there is no such place for photos.
        ValueError: the place holds too few photos.
        SampleError: a photo cannot be used.
    """
    photos = take_photos(options.photos, options.count)
    texts = write_photos(photos, scratch / "bench" / "train")
    train_tokenizer(texts, scratch / "tokenizer", VOCABULARY)
    folder, tokenizer = ShardFolder(scratch / "bench" / "train"), str(scratch / "tokenizer")
    yield "photo_kilobytes", sum(len(photo) for photo, _ in photos) / len(photos) / 1000
    yield from bench_core(photos, folder, tokenizer, options.image_size, options.repeats).items()
    yield from bench_loader(folder, tokenizer, options.image_size, options.count, options.workers, options.demand)


def main() -> None:
    """Measure on one core, then on all; a line each."""
    options = parse()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would be more than one core
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name, value in bench(options, Path(scratch)):
                results[name] = value
                print(f"{name:<36} {value:9.2f}", flush=True)
        except (FileNotFoundError, ValueError, SampleError) as error:
            print(f"datamodules.bench: {error}", file=sys.stderr)
            sys.exit(2)
    print(json.dumps(results))
