"""Command line: ``python -m datamodules.inspect DIR`` verifies shards, counts what they hold and draws some of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from datamodules.inspect.report import Inspection, Unopened
from datamodules.inspect.sheet import draw_sheet
from datamodules.inspect.statistics import Statistics
from datamodules.inspect.verify import Problem, Verified, Verifier
from datamodules.manifest import NAME as MANIFEST
from datamodules.tokenizers import load_tokenizer
from vle_lightning.entry import enter

MAX_IMAGES = 400  # a sheet of more takes gigabytes
SHEET = "contact_sheet.png"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.inspect",
        description="Verify shard folders, count what they hold, and draw a contact sheet of each.",
        epilog="Exit code: 0 all is well, 1 something is wrong (all of it is listed), 2 wrong usage.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help=f"a folder with {MANIFEST}, or ROOT of SOURCE/SPLIT/")
    parser.add_argument("--quick", action="store_true", help="no hashing, no decoding, each record read only once")
    parser.add_argument("--tokenizer", metavar="DIR", help="count tokens too, with this tokenizer")
    parser.add_argument(
        "--sheet", type=Path, metavar="PATH", help=f"PNG to draw; of several folders each in its own (DIR/{SHEET})"
    )
    parser.add_argument("--images", type=int, default=12, help="on the contact sheet; 0 draws none (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of the images (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def find_folders(folder: Path) -> list[Path]:
    """Return the shard folders: this one, or those two levels below; hidden ones are unfinished.

    Raises:
        FileNotFoundError: There is none.
    """
    if (folder / MANIFEST).is_file():
        return [folder]
    found = sorted(
        path.parent
        for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}")
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        what = "holds no shards" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(
            f"{folder} {what}: give a folder with {MANIFEST}, or one with SOURCE/SPLIT/{MANIFEST} below it "
            "(python -m datamodules.prepare makes them)"
        )
    return found


def inspect_folder(
    folder: Path, sheet: Path, options: argparse.Namespace, tokenizer: PreTrainedTokenizerBase | None
) -> Inspection | Unopened:
    """Verify, draw and count one folder.

    Raises:
        OSError: The contact sheet cannot be written.
    """
    try:
        verifier = Verifier(folder, options.quick)
    except ValueError as error:
        return Unopened(str(folder), [Problem("", None, "", str(error))])
    # first the sheet: whoever named a bad place for it learns that before the long part
    drawn = draw_sheet(verifier.folder, verifier.shards, sheet, options.images, options.seed) if options.images else 0
    statistics = Statistics(verifier.manifest.kind, tokenizer)
    for verified in with_progress(verifier, str(folder)):
        statistics.add(verified)
    verifier.compare(statistics.images, statistics.boxes, statistics.classes)
    return Inspection(
        str(folder),
        verifier.manifest,
        statistics,
        verifier.problems,
        verifier.left_out,
        options.quick,
        str(sheet) if drawn else None,
    )


def with_progress(verifier: Verifier, told: str) -> Iterator[Verified]:
    """Pass the records on, with a bar on the terminal."""
    total = sum(verifier.manifest.shards[shard].samples for shard in verifier.shards)
    quiet = not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        task = progress.add_task(told, total=total)
        for verified in verifier.records():
            progress.advance(task, len(verified.record.items(verifier.manifest.kind)))
            yield verified


def run(options: argparse.Namespace) -> int:
    """Inspect all folders and print what was found; returns 0, or 1 where something is wrong.

    Raises:
        OSError: There is no shard folder or tokenizer, or a contact sheet cannot be written.
        ValueError: An option has no sense.
    """
    if not 0 <= options.images <= MAX_IMAGES:
        raise ValueError(f"--images is {options.images}; give 0 to {MAX_IMAGES}")
    folders = find_folders(options.folder)
    if options.sheet is not None and len(folders) > 1:
        raise ValueError(
            f"--sheet names one picture, but {options.folder} holds {len(folders)} shard folders: "
            "name one of them as DIR, or leave --sheet out"
        )
    tokenizer = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    results = []
    for folder in folders:
        found = inspect_folder(folder, options.sheet or folder / SHEET, options, tokenizer)
        results.append(found)
        if not options.json:
            print(*found.lines(), sep="\n")
    all_well = not any(found.problems for found in results)
    if options.json:
        told = {"ok": all_well, "folders": [found.to_json() for found in results]}
        print(json.dumps(told, ensure_ascii=False, indent=1))
    return 0 if all_well else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        return run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.inspect", main))
