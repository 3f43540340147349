"""What decides the bytes of a converted split: the options, and a hash of every annotation file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.prepare.foreign import CaptionTars
from datamodules.prepare.raw import RawDataset

AnyDataset = RawDataset | CaptionTars
MOST = {"longest_side": 65_500, "quality": 100, "workers": 1024}  # a JPEG has no longer side
MAKING = ("longest_side", "quality", "samples_per_shard", "limit", "seed")  # the options that decide the bytes


@dataclass(frozen=True)
class Options:
    """How to convert, whatever the data set.

    Args:
        splits: Which splits; without them train and val (val of foreign tars only if there are any).
        longest_side: Scale larger images down to this many pixels; without it all images keep their bytes.
        quality: JPEG quality of scaled images, 1 to 100.
        samples_per_shard: Upper bound of the samples in a shard; an image's samples stay together.
        limit: Convert only this many images of each split, chosen by the seed.
        seed: Of the order of the images in the shards.
        workers: Threads for reading and scaling; the shards are the same with any number.
        force: Convert what is converted already, too.
        follow_links: Read images through links that lead out of the raw folder.
    """

    splits: tuple[str, ...] | None = None
    longest_side: int | None = None
    quality: int = 90
    samples_per_shard: int = 5000
    limit: int | None = None
    seed: int = 0
    workers: int = min(8, os.cpu_count() or 1)
    force: bool = False
    follow_links: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for name in ("longest_side", "quality", "samples_per_shard", "limit", "workers"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
            if value is not None and value > MOST.get(name, value):
                raise ValueError(f"{name} is {value}; it must be at most {MOST[name]}")


def origin(dataset: AnyDataset, split: str, options: Options, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a split's bytes: options, arguments, and the hash of every annotation file.

    Files are named relative to ``src``, so that a moved folder is the same. Images are not hashed.
    """
    common = {
        "data_set": type(dataset).__module__.rpartition(".")[2],
        "arguments": {name: stated(value) for name, value in arguments.items()},
    }
    if isinstance(dataset, CaptionTars):
        return {**common, **tars_made_from(dataset, split, options)}
    links = {"follow_links": True} if options.follow_links else {}  # what was made before the option stays equal
    files = dataset.annotation_files(split)
    names = [str(path.relative_to(dataset.src)) if path.is_relative_to(dataset.src) else path.name for path in files]
    listing = dataset.listing(split)
    return {
        **common,
        **({} if listing is None else {"listing": listing}),
        "options": {name: getattr(options, name) for name in MAKING} | links,
        "annotations": dict(zip(names, map(file_digest, files), strict=True)),
    }


def tars_made_from(dataset: CaptionTars, split: str, options: Options) -> dict[str, Any]:
    """Return a hash of the tars' names and sizes.

    Raises:
        ValueError: An option is set that foreign tars cannot follow.
    """
    standard = Options()
    for name in MAKING:
        if getattr(options, name) != getattr(standard, name):
            raise ValueError(f"--{name.replace('_', '-')}: these tars are taken as they are; leave the option out")
    return dataset.fingerprint(split)


def stated(value: object) -> object:
    """Return an argument of a data set for the manifest: a file is its name and hash."""
    if isinstance(value, Path):
        return {"name": value.name, "sha256": file_digest(value)} if value.is_file() else value.name
    return value


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
