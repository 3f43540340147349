"""What a data set's own words and class names give: a tokenizer and a class list.

``python -m datamodules.vocabulary data/coco_mini/coco/train --tokenizer data/coco_mini/tokenizer --classes
data/coco_mini/classes.json``. Models that start from published towers take those towers' tokenizer instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.records import Question, Statement, Text
from datamodules.shards import SampleError, ShardFolder
from datamodules.tokenizers import train_tokenizer
from datamodules.wordpiece import train_wordpiece
from vle_lightning.entry import enter

TRAINERS: Mapping[str, Callable[[Iterable[str], Path, int], None]] = {
    "sentencepiece": train_tokenizer,
    "wordpiece": train_wordpiece,
}


def texts_of(folder: ShardFolder) -> Iterator[str]:
    """Yield caption, passage, question or statement of every sample of a folder, in the order of the shards.

    Raises:
        ValueError: the folder holds other samples, or a broken one.
    """
    if folder.kind in ("vcr", "images"):
        told = f"{folder.name} holds {folder.kind}, neither texts, questions nor statements: name another folder"
        raise ValueError(told)
    for shard, samples in enumerate(folder.shard_sizes):
        for row in range(samples):
            try:
                raw = folder.read(shard, row)
            except SampleError as error:
                raise ValueError(f"{error}; convert the data set again") from error
            item = raw.record.items(folder.kind)[raw.item]
            assert isinstance(item, Text | Question | Statement)
            yield item.question if isinstance(item, Question) else item.text


def most_frequent(folders: Sequence[ShardFolder], count: int) -> list[str]:
    """Return the ``count`` most frequent class names of all folders, the most frequent first."""
    total: Counter[str] = Counter()
    for folder in folders:
        total.update(folder.manifest.classes)
    return sorted(total, key=lambda name: (-total[name], name))[:count]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser("python -m datamodules.vocabulary", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="shard folders: data/coco_mini/coco/train")
    parser.add_argument("--tokenizer", type=Path, help="folder for a tokenizer of the texts")
    told = "of the tokenizer: DeBERTa-v3's or BERT's, which reads upper case as lower case (%(default)s)"
    parser.add_argument("--kind", choices=sorted(TRAINERS), default="sentencepiece", help=told)
    parser.add_argument("--pieces", type=int, default=4000, help="of the tokenizer, at most")
    parser.add_argument("--classes", type=Path, help="JSON file for the list of class names")
    parser.add_argument("--count", type=int, default=1600, help="of classes, at most")
    options = parser.parse_args(arguments)
    try:
        folders = [ShardFolder(folder) for folder in options.folders]
        if options.tokenizer:
            texts = (text for folder in folders for text in texts_of(folder))
            TRAINERS[options.kind](texts, options.tokenizer, options.pieces)
        if options.classes:
            names = most_frequent(folders, options.count)
            options.classes.write_text(json.dumps(names, indent=0) + "\n", encoding="utf8")
            print(f"{options.classes}: {len(names)} classes")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.vocabulary", main))
