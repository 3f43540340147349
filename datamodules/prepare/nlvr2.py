"""NLVR2 (arXiv 1811.00491): is a sentence true of a pair of photos?

A record is a pair with all its sentences. The same sentence on the pairs of one set is a group: consistency asks
for all of them. The balanced and unbalanced parts of dev and test1 convert as splits of their own
(``--splits balanced_dev``). Some files called .png hold JPEGs; the shards name them for what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from datamodules.prepare.raw import Item, Order, RawDataset, clean_text, truth, usable_statement
from datamodules.prepare.rows import (
    ANY,
    ID,
    Field,
    Fields,
    Row,
    SkipDefect,
    distinct,
    first_existing,
    group,
    optional,
    read_lines,
)
from datamodules.records import Record, Statement

LABELS = ("true", "false")
IDENTIFIER = re.compile(r"\w{1,50}(-\d{1,9}){3}", re.ASCII)  # split, set, pair, sentence
FIELDS: Fields = {
    "identifier": Field(
        "an identifier like 'dev-850-0-1'", lambda value: isinstance(value, str) and bool(IDENTIFIER.fullmatch(value))
    ),
    "sentence": ANY,
    "label": optional(ANY),
    "directory": optional(ID),
}


class Dataset(RawDataset):
    """``SPLIT.json``, a row a line, with ``images/train/DIRECTORY/``, ``dev/`` and ``test1/``."""

    kind = "statements"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the raw folder, for names that begin with the split's folder, and the official archive."""
        return (".", "images", f"{split.split('_')[-1]}_img")  # dev_img.zip, for balanced_dev too

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's one file; that of a part of a split may lie in a folder of its own."""
        part, name = split.split("_")[0], f"{split}.json"
        return (first_existing(self.src, [f"{folder}{name}" for folder in ("", f"{part}/", "data/", f"data/{part}/")]),)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every pair that has a statement."""
        (path,) = self.annotation_files(split)
        rows = distinct(read_lines(path, FIELDS, skip), "identifier", path.name, skip)
        pairs = group(({**row, "pair": row["identifier"].rpartition("-")[0]} for row in rows), "pair")
        for pair in order(sorted(pairs)):
            found = (usable_row(row, path.name, skip) for row in pairs[pair])
            statements = tuple(statement for statement in found if statement is not None)
            if statements:
                left, right = (f"{folder_of(pairs[pair][0])}/{pair}-img{side}.png" for side in (0, 1))
                yield Item(pair, left, Record(f"nlvr2/{pair}", statements=statements), right)


def folder_of(row: Row) -> str:
    """Return the folder of a pair: only training has numbered ones."""
    split, directory = row["identifier"].partition("-")[0], row.get("directory")
    return split if directory is None else f"images/{split}/{directory}"


def usable_row(row: Row, where: str, skip: SkipDefect) -> Statement | None:
    """Return a row's statement; None, counted, if it is empty or has another label."""
    split, image_set, _, sentence = row["identifier"].split("-")
    statement = Statement(
        row["identifier"], clean_text(row["sentence"]), truth(row.get("label")), f"{split}-{image_set}-{sentence}"
    )
    return usable_statement(statement, LABELS, where, skip)
