"""NLVR (Suhr et al., ACL 2017): is a sentence true of a drawing of three boxes?

Six drawings of each example are the orders of its boxes. A statement's group is its sentence, the first number of
the identifier, as in the official scorer: consistency asks for all drawings of all examples of the sentence.

The official splits are train, dev and test. With ``--hold_out 0.1 --splits train val dev`` a tenth of the sentences of
train makes val, which selects what dev then judges once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.prepare.hold_out import TRAIN, VAL, check_share, split_of
from datamodules.prepare.raw import Item, Order, RawDataset, clean_text, tar_key, truth, usable_statement
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    ID,
    Fields,
    Row,
    SkipDefect,
    distinct,
    existing_file,
    optional,
    read_lines,
)
from datamodules.records import Record, Statement

LABELS = ("true", "false")
PERMUTATIONS = 6
FIELDS: Fields = {
    "identifier": ID,
    "sentence": ANY,
    "label": optional(ANY),
    "directory": optional(ID),
    "image_prefix": optional(FILE_NAME),
}


class Dataset(RawDataset):
    """``SPLIT.json`` or ``SPLIT/SPLIT.json``, a row a line, and ``SPLIT/images/DIRECTORY/SPLIT-IDENTIFIER-K.png``.

    A row with an ``image_prefix`` has its images as ``IMAGE_PREFIX-K.png`` in one folder or tar instead.
    """

    kind = "statements"

    def __init__(self, src: Path, permutations: int = PERMUTATIONS, hold_out: float = 0.0) -> None:
        """Take the raw folder and how much of it to use.

        Args:
            src: Raw folder.
            permutations: How many of each example's six drawings.
            hold_out: Share of the sentences of train that val gets; 0 is none: val has a file of its own.

        Raises:
            ValueError: ``permutations`` is not 1 to 6, or the share leaves nothing to train on.
        """
        super().__init__(src)
        if not 1 <= permutations <= PERMUTATIONS:
            raise ValueError(f"--permutations is {permutations}; it must be 1 to {PERMUTATIONS}")
        check_share(hold_out)
        self.permutations, self.share = permutations, hold_out

    def raw_split(self, split: str) -> str:
        """Return the split of the raw files that a split is made of."""
        return TRAIN if self.share and split == VAL else split

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and archives that may hold the images."""
        split = self.raw_split(split)
        return (f"{split}/images", f"{split}_images", "images")

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's one file."""
        split = self.raw_split(split)
        nested = self.src / split / f"{split}.json"  # as in the official release
        return (nested if nested.is_file() else existing_file(self.src / f"{split}.json"),)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield the drawings, each with its one statement."""
        (path,) = self.annotation_files(split)
        rows = distinct(read_lines(path, FIELDS, skip), "identifier", path.name, skip)
        examples = [
            (row, found)
            for row in rows
            if self.belongs(row, split) and (found := usable_row(row, path.name, skip)) is not None
        ]
        for number in order(range(len(examples) * self.permutations)):
            row, statement = examples[number // self.permutations]
            permutation = number % self.permutations
            name = image_name(row, self.raw_split(split), permutation)
            statement = replace(statement, id=f"{statement.id}-{permutation}")
            key = tar_key(Path(name).name)
            yield Item(key, name, Record(f"nlvr/{Path(name).stem}", statements=(statement,)))

    def check_splits(self, splits: Sequence[str]) -> None:
        """Make sure that one command tells train and val apart.

        Raises:
            ValueError: val is held out of train, and only one of the two is among ``splits``.
        """
        if self.share and (TRAIN in splits) != (VAL in splits):
            raise ValueError(
                f"--hold_out {self.share} takes sentences out of {TRAIN}: name both {TRAIN} and {VAL} in --splits "
                f"(they are {', '.join(splits)}), so that no sentence is in both"
            )

    def belongs(self, row: Row, split: str) -> bool:
        """Say whether a row of the split's raw file is of the split; all of a sentence are of one.

        The official sentences are numbered, and some stand under several numbers.
        """
        if not self.share or split not in (TRAIN, VAL):
            return True
        words = " ".join(clean_text(row["sentence"]).casefold().split()).rstrip(" .")
        return split_of(words, self.share) == split


def usable_row(row: Row, where: str, skip: SkipDefect) -> Statement | None:
    """Return a row's statement; None, counted, if it is empty or has another label."""
    example = str(row["identifier"])
    sentence = example.partition("-")[0]
    statement = Statement(example, clean_text(row["sentence"]), truth(row.get("label")), group=sentence)
    return usable_statement(statement, LABELS, where, skip)


def image_name(row: Row, split: str, permutation: int) -> str:
    """Return the file name of one of the drawings of an example."""
    prefix = row.get("image_prefix")
    if prefix is not None:
        return f"{prefix}-{permutation}.png"
    name = f"{split}-{row['identifier']}-{permutation}.png"
    return name if row.get("directory") is None else f"{row['directory']}/{name}"
