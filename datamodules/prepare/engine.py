"""The conversion itself: order, images, shards, resume. What a record is, the data set's module says.

The same raw files and options give the same bytes, with any number of workers, in one go or in several. The
manifest's ``made_from`` says what a split was made from: a second conversion from the same things does nothing,
and an interrupted one goes on after its last finished shard.
"""

from __future__ import annotations

import importlib
import itertools
import json
import pkgutil
import random
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

from datamodules.manifest import NAME as MANIFEST
from datamodules.partial import PartialSplit, already_made, first_of_each
from datamodules.prepare.foreign import CaptionTars, index_tars
from datamodules.prepare.images import EncodedImage, Place, open_places, prepare_image, read_image, upright_record
from datamodules.prepare.masks import prepare_mask
from datamodules.prepare.origin import AnyDataset, Options, origin
from datamodules.prepare.parallel import ordered_map, progress_line
from datamodules.prepare.raw import Item, Order, RawDataset
from datamodules.shards import SampleError
from datamodules.writer import ShardFolderWriter

T = TypeVar("T")
SPLITS = ("train", "val")
FOLDER_NAME = re.compile(r"\w[\w.-]*")
ENDINGS = ("", ".tar", ".zip")  # of a place with images
CLASSES = "classes.json"  # in OUT/NAME: the names of the classes of labels and masks
CHUNK = 16  # images a thread takes at a time: small pictures take less time than handing them over does


class Shuffled(Order):
    """A random order that depends on seed and split alone."""

    def __init__(self, seed: int, split: str) -> None:
        self.key = f"{seed}/{split}"

    def __call__(self, ids: Iterable[T]) -> Sequence[T]:
        """Return the ids in a random order."""
        shuffled: MutableSequence[Any] = (
            array("q", ids) if isinstance(ids, range) else list(ids)
        )  # a list takes five times the memory
        random.Random(self.key).shuffle(shuffled)
        return shuffled


def dataset_classes() -> dict[str, type[RawDataset]]:
    """Return the data sets with records of ours by name: the modules of this package with a class ``Dataset``."""
    return {name: found for name, found in all_classes().items() if issubclass(found, RawDataset)}


def all_classes() -> dict[str, type[AnyDataset]]:
    """Return all data sets by name, those of foreign tars too."""
    package = importlib.import_module("datamodules.prepare")
    names = (module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))
    modules = {name: importlib.import_module(f"datamodules.prepare.{name}") for name in names}
    found = {name: module.Dataset for name, module in modules.items() if hasattr(module, "Dataset")}
    return {getattr(dataset, "command", None) or name: dataset for name, dataset in found.items()}


def convert(
    name: str, src: Path, out: Path, options: Options | None = None, arguments: Mapping[str, Any] | None = None
) -> None:
    """Convert a raw data set to ``out/name/SPLIT/``.

    Args:
        name: Of the data set, and of the source.
        src: Raw folder.
        out: Root of the shards.
        options: How.
        arguments: Of the data set beside ``src``, where they are not the defaults.

    Raises:
        ValueError: No data set of this name, or the raw files are not in the official layout.
        FileNotFoundError: A raw file is missing.
    """
    classes = all_classes()
    if name not in classes:
        raise ValueError(f"no data set {name!r}; known are {', '.join(sorted(classes))}")
    convert_dataset(name, classes[name](src, **(arguments or {})), out, options or Options(), arguments)


def convert_dataset(
    name: str, dataset: AnyDataset, out: Path, options: Options, arguments: Mapping[str, Any] | None = None
) -> None:
    """Convert a data set to ``out/name/SPLIT/``, and print what was written and left out.

    Args:
        name: Of the source; usually the data set's.
        dataset: What to convert.
        out: Root of the shards.
        options: How.
        arguments: What the data set was built from beside ``src``; they are part of ``made_from``.
    """
    console = Console(soft_wrap=True)
    wanted = options.splits or (dataset.standard_splits() if isinstance(dataset, CaptionTars) else SPLITS)
    for part in (name, *wanted):
        if not FOLDER_NAME.fullmatch(part):
            raise ValueError(f"{part!r} cannot be a folder in {out}: --name and --splits are letters, digits and _.-")
    if isinstance(dataset, RawDataset):
        dataset.check_splits(wanted)
        dataset.set_follow_links(options.follow_links)
    for split in wanted:
        keep_what_is_not_ours(dataset, split, out / name / split)
    # of all splits before the first conversion: a missing file is found at once
    made_from = {split: origin(dataset, split, options, arguments or {}) for split in wanted}
    if isinstance(dataset, RawDataset):
        dataset.check_beside(out / name, made_from)
    for split in wanted:
        folder = out / name / split
        if not options.force and already_made(folder, made_from[split]):
            PartialSplit(folder).remove()
            console.print(f"already converted: {folder}, nothing to do (--force converts it anyhow)")
        elif isinstance(dataset, CaptionTars):
            index_split(dataset, PartialSplit(folder, made_from[split]), name, split, options, console)
        else:
            convert_split(dataset, folder, name, split, made_from[split], options, console)


def keep_what_is_not_ours(dataset: AnyDataset, split: str, folder: Path) -> None:
    """Make sure that replacing a split's folder removes nothing but shards.

    Raises:
        ValueError: The folder holds something else, or what the conversion reads lies in it.
    """
    if not folder.exists():
        return
    if not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is in the way: it holds no shards of ours; name another --out or --name")
    if isinstance(dataset, CaptionTars):
        read = dataset.tars(split)
    else:
        places = [dataset.src / f"{name}{ending}" for name in dataset.image_places(split) for ending in ENDINGS]
        read = [*dataset.annotation_files(split), *filter(Path.exists, places)]
    if inside := [path for path in read if path.resolve().is_relative_to(folder.resolve())]:
        raise ValueError(
            f"{folder} would be replaced, but {inside[0]} in it is to be read; name another --out or --name"
        )


def convert_split(
    dataset: RawDataset,
    folder: Path,
    name: str,
    split: str,
    made_from: dict[str, Any],
    options: Options,
    console: Console,
) -> None:
    """Convert one split; what belongs beside the shards is written before the split takes its place."""
    with ShardFolderWriter(
        folder, name, split, dataset.kind, options.samples_per_shard, made_from, not options.force
    ) as writer:
        tell_start(writer.partial, console)
        write_items(dataset, split, writer, options)
        dataset.finish(folder.parent.parent)
        if names := dataset.class_names():
            text = json.dumps(names, ensure_ascii=False, indent=1) + "\n"
            (folder.parent / CLASSES).write_text(text, encoding="utf-8")
    counted = "texts" if dataset.kind == "passages" else "images"
    console.print(f"{folder}: {writer.images:,} {counted}; left out: {first_of_each(writer.skipped, writer.listed)}")


def index_split(
    dataset: CaptionTars, partial: PartialSplit, name: str, split: str, options: Options, console: Console
) -> None:
    """Index the foreign tars of one split."""
    try:
        partial.open(not options.force)
        tell_start(partial, console)
        manifest = index_tars(dataset.tars(split), partial, name, split, options.workers)
        partial.finish(manifest)
    finally:
        partial.close()
    console.print(
        f"{partial.folder}: {manifest.images:,} images; left out: {first_of_each(manifest.skipped, manifest.skips)}"
    )


def tell_start(partial: PartialSplit, console: Console) -> None:
    """Say where an interrupted conversion is taken up, or why it is not."""
    if partial.finished:
        console.print(f"{partial.folder}: going on after {len(partial.finished):,} finished shards")
    elif partial.discarded:
        console.print(f"{partial.folder}: what an interrupted conversion left was made from something else; anew")


class Encoded(NamedTuple):
    """An item's images as they go into the shard."""

    image: EncodedImage | None  # None: the item is a text alone
    right: EncodedImage | None  # or the mask


def write_items(dataset: RawDataset, split: str, writer: ShardFolderWriter, options: Options) -> None:
    """Write a split's items but those that are in finished shards, with a line of progress."""
    with progress_line() as progress:
        task = progress.add_task(f"{writer.source} {split}", total=options.limit, completed=writer.items)
        names = dataset.image_places(split)
        places = open_places(dataset.src, names, options.follow_links) if names else []
        items = dataset.items(split, Shuffled(options.seed, split), writer.skip)
        rest = itertools.islice(items, writer.items, options.limit)
        for item, encoded in encoded_images(rest, places, options, dataset.stored_boxes):
            if isinstance(encoded, SampleError):
                writer.leave_out(encoded.kind, encoded.where)
            elif encoded.image is None:
                writer.write_passage(item.key, item.record)
            else:
                writer.write(item.key, encoded.image.data, encoded.image.extension, item.record, encoded.right)
            progress.advance(task)
        progress.update(task, total=writer.items, completed=writer.items)


def encoded_images(
    items: Iterable[Item], places: Sequence[Place], options: Options, stored_boxes: bool
) -> Iterator[tuple[Item, Encoded | SampleError]]:
    """Read, check and scale the items' images in threads; yields in the order of the items."""

    def work(chunk: list[Item]) -> list[tuple[Item, Encoded | SampleError]]:
        return [encoded_item(item, places, options, stored_boxes) for item in chunk]

    yield from itertools.chain.from_iterable(ordered_map(work, chunks(items), options.workers))


def encoded_item(
    item: Item, places: Sequence[Place], options: Options, stored_boxes: bool
) -> tuple[Item, Encoded | SampleError]:
    """Return an item and its images as they go into the shard, or what is wrong with the first that is wrong."""

    def encoded(data: bytes, name: str) -> EncodedImage:
        return prepare_image(data, name, options.longest_side, options.quality)

    if item.image_name is None:
        return item, Encoded(None, None)
    try:
        data = read_image(places, item.image_name)
        image = encoded(data, item.image_name)
        if stored_boxes and item.record.boxes:
            item = item._replace(record=upright_record(item.record, data))
        if item.mask is not None:
            return item, Encoded(image, prepare_mask(read_image(places, item.mask.name), item.mask, data, image.data))
        if item.right_name is None:
            return item, Encoded(image, None)
        return item, Encoded(image, encoded(read_image(places, item.right_name), item.right_name))
    except SampleError as error:
        return item, error


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut the items into lists."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk
