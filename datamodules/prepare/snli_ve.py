"""SNLI-VE (arXiv 1901.06706): hypotheses that a Flickr30k photo entails, contradicts or leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.prepare.raw import Item, Order, RawDataset, clean_text, tar_key, usable_statement
from datamodules.prepare.rows import (
    ANY,
    FILE_NAME,
    ID,
    TEXT,
    Fields,
    Row,
    SkipDefect,
    distinct,
    existing_file,
    group,
    read_lines,
)
from datamodules.records import Record, Statement

LABELS = ("entailment", "neutral", "contradiction")
NO_GOLD = "-"  # the annotators did not agree
SPELT = {"Flikr30kID": "Flickr30K_ID"}  # as the authors' own parser spells it
FIELDS: Fields = {"Flickr30K_ID": FILE_NAME, "pairID": ID, "sentence2": ANY, "gold_label": TEXT}


class Dataset(RawDataset):
    """``snli_ve_{train,dev,test}.jsonl`` and ``flickr30k_images/``."""

    kind = "statements"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the folders and archives that may hold the images: splits share them."""
        return ("flickr30k_images", "flickr30k-images", "images")

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the split's one file."""
        return (existing_file(self.src / f"snli_ve_{split}.jsonl"),)

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every image that has a statement with a gold label."""
        (path,) = self.annotation_files(split)
        rows = group(distinct(read_lines(path, FIELDS, skip, SPELT), "pairID", path.name, skip), "Flickr30K_ID")
        for photo in order(sorted(rows)):
            where = f"{path.name}, image {photo}"
            found = (labelled_statement(row, where, skip) for row in rows[photo])
            statements = tuple(statement for statement in found if statement is not None)
            if statements:
                name = f"{photo.removesuffix('.jpg')}.jpg"
                yield Item(tar_key(name), name, Record(f"flickr30k/{name[:-4]}", statements=statements))


def labelled_statement(row: Row, where: str, skip: SkipDefect) -> Statement | None:
    """Return a row's hypothesis; None, counted, if it is empty or has no gold label."""
    if row["gold_label"] == NO_GOLD:
        skip("no gold label", f"{where}, statement {row['pairID']}")
        return None
    statement = Statement(str(row["pairID"]), clean_text(row["sentence2"]), row["gold_label"], "")
    return usable_statement(statement, LABELS, where, skip)
