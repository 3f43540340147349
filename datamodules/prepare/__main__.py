"""Command line: ``python -m datamodules.prepare NAME --src RAW --out ROOT``."""

from __future__ import annotations

import errno
import sys
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from datamodules.prepare.engine import all_classes, convert_dataset
from datamodules.prepare.origin import AnyDataset, Options
from vle_lightning.entry import enter

DESCRIPTION = """Convert a data set in its official raw layout to shards: OUT/NAME/SPLIT/ gets WebDataset tars, an
index beside each and manifest.json. The same files and options give the same bytes; an interrupted conversion goes
on where it was when the same command is given again, and a finished one is left alone."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130  # as shells say it of Ctrl-C


def build_parser(classes: dict[str, type[AnyDataset]]) -> ArgumentParser:
    """Return a parser with one subcommand a data set: the arguments of its class, and the common ones."""
    parser = ArgumentParser(prog="python -m datamodules.prepare", description=DESCRIPTION)
    subcommands = parser.add_subcommands(dest="dataset")
    for name, dataset in sorted(classes.items()):
        description = (sys.modules[dataset.__module__].__doc__ or "").strip()
        subparser = ArgumentParser(description=f"{description}\n\nRaw layout: {dataset.__doc__}")
        subparser.add_class_arguments(dataset, as_group=False)
        add_common_arguments(subparser, name)
        subcommands.add_subcommand(name, subparser, help=description.splitlines()[0])
    return parser


def add_common_arguments(parser: ArgumentParser, name: str) -> None:
    """Add the output folder and the fields of `Options`."""
    standard = Options()
    add = parser.add_argument
    add("--out", type=Path, required=True, help="root of the shards: OUT/NAME/SPLIT/ is written")
    add("--name", default=name, help="NAME of the source in OUT and in the manifest")
    add("--splits", nargs="+", help="which splits; without it those of train and val that the data set has")
    add("--longest-side", type=int, help="scale larger images down to this many pixels; else all bytes are kept")
    add("--quality", type=int, default=standard.quality, help="JPEG quality of scaled images, 1 to 100")
    add("--samples-per-shard", type=int, default=standard.samples_per_shard, help="an image's samples stay together")
    add("--limit", type=int, help="at most this many images of each split, chosen by the seed")
    add("--seed", type=int, default=standard.seed, help="of the order of the images in the shards")
    add("--workers", type=int, default=standard.workers, help="threads; the shards are the same with any number")
    add("--follow-links", action="store_true", help="read images through links that lead out of the raw folder")
    add("--force", action="store_true", help="convert even what is converted already from the same things")


def main(arguments: list[str] | None = None) -> None:
    """Convert; what the user can fix ends with one line and code 2."""
    classes = all_classes()
    given = sys.argv[1:] if arguments is None else arguments
    asked = {name: dataset for name, dataset in classes.items() if name in given[:1]}
    settings = build_parser(asked or classes).parse_args(given)  # each parser takes its time to build
    own = vars(settings[settings.dataset])
    common = {field.name: own.pop(field.name) for field in fields(Options)}
    out, name = own.pop("out"), own.pop("name")
    try:
        if common["splits"] is not None:
            common["splits"] = tuple(common["splits"])
        dataset = classes[settings.dataset](**own)
        convert_dataset(name, dataset, out, Options(**common), {key: own[key] for key in own if key != "src"})
    except OSError as error:
        told = "; free some space, then the same command goes on" if error.errno in FULL else ""
        place = f"{out}: " if error.errno is not None and error.filename is None else ""  # others say where themselves
        print(f"error: {place}{' '.join(str(error).split())}{told}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.prepare", main))
