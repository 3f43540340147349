"""``python -m datamodules.bench.write``: drawn photos with captions as shards, and their tokenizer."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from vle_lightning.entry import enter

SOURCE = "photos"
VALIDATED = 4  # photos
VOCABULARY = 200


def write(out: Path, count: int) -> None:
    """Write OUT/shards/photos/train and val, and OUT/tokenizer, unless they are there."""
    from datamodules.bench.photos import draw_photo, write_photos
    from datamodules.tokenizers import train_tokenizer

    if (out / "tokenizer").is_dir():  # written last
        return
    with ProcessPoolExecutor() as pool:
        photos = [(photo, "jpg") for photo in pool.map(draw_photo, range(count), chunksize=8)]
    texts = write_photos(photos, out / "shards" / SOURCE / "train")
    write_photos(photos[:VALIDATED], out / "shards" / SOURCE / "val")
    train_tokenizer(texts, out / "tokenizer", VOCABULARY)


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser("python -m datamodules.bench.write", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--count", type=int, default=256, help="photos (default: %(default)s)")
    options = parser.parse_args()
    if options.count < VALIDATED:
        parser.error(f"--count is {options.count}; give at least {VALIDATED}")
    write(options.out, options.count)


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.bench.write", main))
