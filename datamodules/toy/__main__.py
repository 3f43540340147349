"""`python -m datamodules.toy --out data/toy`: draw the toy world and prepare it for training."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from datamodules.toy.build import CODEBOOK, WorldOptions, build_world, codebook_command
from vle_lightning.entry import enter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where the user has to fix something."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.toy", description=__doc__)
    defaults = WorldOptions()
    parser.add_argument("--out", type=Path, default=Path("data/toy"), help="the world folder (%(default)s)")
    for name, text in {
        "train-scenes": "number of training scenes",
        "val-scenes": "number of validation scenes, none of which occurs in training",
        "seed": "of the whole world",
    }.items():
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    parsed = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        options = WorldOptions(parsed.train_scenes, parsed.val_scenes, parsed.seed)
        made = build_world(parsed.out, options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{parsed.out}: made in {time.monotonic() - started:.0f} s" if made else f"{parsed.out}: made already")
    if not (parsed.out / CODEBOOK).exists():
        print(f"{parsed.out} has no codebook of patches; for mim_codes, make it with {codebook_command(parsed.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.toy", main))
