"""`python -m datamodules.nlvr_world --out data/nlvr_world/raw`: draw statements and scenes in NLVR's style."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from datamodules.nlvr_world.build import build_world
from datamodules.nlvr_world.chunks import Options
from vle_lightning.entry import enter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where the user has to fix something."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.nlvr_world", description=__doc__)
    defaults = Options()
    parser.add_argument("--out", type=Path, default=Path("data/nlvr_world/raw"), help="the raw folder (%(default)s)")
    for name, text in {
        "train": "training statements, each with a drawing that it is true of and one that it is false of",
        "val": "validation statements likewise",
        "train-easy": "training statements of easy forms",
        "val-easy": "validation statements likewise",
        "train-scenes": "training scenes with captions",
        "val-scenes": "validation scenes likewise",
        "seed": "of all draws",
    }.items():
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="how many draw at a time (%(default)s)")
    parsed = parser.parse_args(arguments)
    if parsed.processes < 1:
        parser.error(f"--processes is {parsed.processes}; give at least 1")
    started = time.monotonic()
    try:
        options = Options(**{name: getattr(parsed, name) for name in vars(defaults)})
        build_world(parsed.out, options, parsed.processes)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    statements = options.train + options.val + options.train_easy + options.val_easy
    drawings = 2 * statements + options.train_scenes + options.val_scenes
    print(f"{parsed.out}: {drawings:,} drawings in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.nlvr_world", main))
