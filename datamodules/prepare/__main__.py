"""Command line: ``python -m datamodules.prepare NAME --src RAW --out ROOT``."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from datamodules.prepare.engine import Options, convert_dataset, dataset_classes
from datamodules.prepare.raw import RawDataset


def build_parser(classes: dict[str, type[RawDataset]]) -> ArgumentParser:
    """Return a parser with one subcommand a data set: the arguments of its class, and the common ones."""
    parser = ArgumentParser(prog="python -m datamodules.prepare", description="Official raw layouts -> shard folders.")
    subcommands = parser.add_subcommands(dest="name")
    for name, dataset in sorted(classes.items()):
        subparser = ArgumentParser(description=sys.modules[dataset.__module__].__doc__)
        subparser.add_class_arguments(dataset, as_group=False)
        add_common_arguments(subparser)
        subcommands.add_subcommand(name, subparser)
    return parser


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the output folder and the fields of `Options`."""
    standard = Options()
    parser.add_argument("--out", type=Path, required=True, help="root of the shards: OUT/NAME/SPLIT/ is written")
    parser.add_argument("--splits", nargs="+", default=list(standard.splits), help="which splits")
    parser.add_argument(
        "--longest-side", type=int, help="scale larger images down to this many pixels; else keep all bytes"
    )
    parser.add_argument("--quality", type=int, default=standard.quality, help="JPEG quality of scaled images")
    parser.add_argument(
        "--samples-per-shard",
        type=int,
        default=standard.samples_per_shard,
        help="an image's samples stay together",
    )
    parser.add_argument("--limit", type=int, help="at most this many images of each split, chosen by the seed")
    parser.add_argument("--seed", type=int, default=standard.seed, help="of the order of the images in the shards")
    parser.add_argument("--threads", type=int, default=standard.threads, help="for reading and scaling images")


def main(arguments: list[str] | None = None) -> None:
    """Convert; what the user can mend ends with its message and code 2."""
    classes = dataset_classes()
    parser = build_parser(classes)
    settings = parser.parse_args(arguments)
    own = vars(settings[settings.name])
    common = {field.name: own.pop(field.name) for field in fields(Options)}
    out = own.pop("out")
    try:
        options = Options(**{**common, "splits": tuple(common["splits"])})
        convert_dataset(settings.name, classes[settings.name](**own), out, options)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
