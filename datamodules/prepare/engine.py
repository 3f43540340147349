"""The conversion itself: order, images, shards, progress. What a record is, the data set's module says."""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from datamodules.prepare.images import EncodedImage, Place, open_places, prepare_image, read_image
from datamodules.prepare.raw import Item, Order, RawDataset
from datamodules.shards import SampleError, ShardFolderWriter

T = TypeVar("T")
CHUNK = 64  # images a thread takes at a time: small pictures take less time than handing them over does


@dataclass(frozen=True)
class Options:
    """How to convert, whatever the data set.

    Args:
        splits: Which splits.
        longest_side: Scale larger images down to this many pixels; without it all images keep their bytes.
        quality: JPEG quality of scaled images.
        samples_per_shard: Upper bound of the samples in a shard; an image's samples stay together.
        limit: Convert only this many images of each split, chosen by the seed.
        seed: Of the order of the images in the shards.
        threads: For reading and scaling; the shards are the same with any number.
    """

    splits: tuple[str, ...] = ("train", "val")
    longest_side: int | None = None
    quality: int = 90
    samples_per_shard: int = 5000
    limit: int | None = None
    seed: int = 0
    threads: int = min(8, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name in ("longest_side", "quality", "samples_per_shard", "limit", "threads"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Shuffled(Order):
    """A random order that depends on seed and split alone."""

    def __init__(self, seed: int, split: str) -> None:
        self.key = f"{seed}/{split}"

    def __call__(self, ids: Iterable[T]) -> Sequence[T]:
        """Return the ids in a random order."""
        shuffled = list(ids)
        random.Random(self.key).shuffle(shuffled)
        return shuffled


def dataset_classes() -> dict[str, type[RawDataset]]:
    """Return the data sets by name: the modules of this package that have a class ``Dataset``."""
    package = importlib.import_module("datamodules.prepare")
    names = (module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))
    modules = {name: importlib.import_module(f"datamodules.prepare.{name}") for name in names}
    return {name: module.Dataset for name, module in modules.items() if hasattr(module, "Dataset")}


def convert(name: str, src: Path, out: Path, options: Options | None = None) -> None:
    """Convert a raw data set with its default settings to ``out/name/SPLIT/``.

    Raises:
        ValueError: No data set of this name, or the raw files are not in the official layout.
        FileNotFoundError: A raw file is missing.
    """
    classes = dataset_classes()
    if name not in classes:
        raise ValueError(f"no data set {name!r}; known are {', '.join(sorted(classes))}")
    convert_dataset(name, classes[name](src), out, options or Options())


def convert_dataset(name: str, dataset: RawDataset, out: Path, options: Options) -> None:
    """Convert a data set to ``out/name/SPLIT/``, and print what was written and left out."""
    for split in options.splits:
        with ShardFolderWriter(out / name / split, name, split, dataset.kind, options.samples_per_shard) as writer:
            write_split(dataset, split, writer, options)
    dataset.finish(out)


def write_split(dataset: RawDataset, split: str, writer: ShardFolderWriter, options: Options) -> None:
    """Convert one split into an open shard folder, with a line of progress."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(f"{writer.source} {split}", total=options.limit)
        places = open_places(dataset.src, dataset.image_places(split))
        items = dataset.items(split, Shuffled(options.seed, split), writer.skip)
        written = 0
        for item, image in encoded_images(itertools.islice(items, options.limit), places, options):
            if isinstance(image, SampleError):
                writer.skip(image.kind, image.where)
            else:
                writer.write(item.key, image.data, image.extension, item.record)
                written += 1
            progress.advance(task)
        progress.update(task, total=written, completed=written)
        left_out = ", ".join(f"{count:,} x {kind}" for kind, count in sorted(writer.skipped.items())) or "nothing"
        progress.console.print(f"{writer.folder}: {written:,} images; left out: {left_out}")


def encoded_images(
    items: Iterable[Item], places: Sequence[Place], options: Options
) -> Iterator[tuple[Item, EncodedImage | SampleError]]:
    """Read, check and scale the items' images in threads; yields in the order of the items."""

    def work(chunk: list[Item]) -> list[tuple[Item, EncodedImage | SampleError]]:
        return [(item, encoded_image(item, places, options)) for item in chunk]

    yield from itertools.chain.from_iterable(ordered_map(work, chunks(items), options.threads))


def encoded_image(item: Item, places: Sequence[Place], options: Options) -> EncodedImage | SampleError:
    """Return the item's image as it goes into the shard, or what is wrong with it."""
    try:
        data = read_image(places, item.image_name)
        return prepare_image(data, item.image_name, options.longest_side, options.quality)
    except SampleError as error:
        return error


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut the items into lists."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


R = TypeVar("R")


def ordered_map(function: Callable[[T], R], values: Iterable[T], threads: int) -> Iterator[R]:
    """Map in threads, in order, with few results in memory at a time (unlike `Executor.map`)."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
