"""Texts without images, for pre-training on texts alone: Wikipedia, books, any JSON lines or plain text.

``--src`` is a file, or a folder: its ``SPLIT.jsonl``, ``SPLIT.txt`` or all such files below ``SPLIT/``; where there is
nothing of these names, all such files in it. A line of ``.jsonl`` is an object with the text under ``--key text``, a
line of ``.txt`` is a text. Of what has no splits ``--hold_out 0.01`` makes val.

A text is a sample, and what is longer than ``data.max_text_length`` is cut when it is read, as VLMo does. With
``--pack 196 --tokenizer NAME`` texts are joined and cut to samples of so many tokens, [CLS] and [SEP] included, so that
nothing is lost and nothing padded; without a tokenizer ``--pack`` counts words. Neighbouring lines are packed together.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare.hold_out import check_known, check_share, split_of
from datamodules.prepare.image_folder import line_offsets
from datamodules.prepare.raw import Item, Order, RawDataset, clean_text
from datamodules.prepare.rows import LONGEST_LINE, Field, Fields, SkipDefect, parse_line, read_line
from datamodules.records import Record, Text
from datamodules.tokenizers import load_tokenizer

LINES, PLAIN = (".jsonl", ".ndjson"), (".txt",)
TOGETHER = 100  # neighbouring lines that are packed
SPECIAL = 2  # tokens around a text
Costs = Callable[[Sequence[str]], Sequence[int]]  # from words to what each takes


class Line(NamedTuple):
    """A line of a file."""

    file: Path
    number: int  # from 1
    offset: int  # bytes


class Dataset(RawDataset):
    """``FILE.jsonl`` or ``FILE.txt``, a text a line; or a folder of such files."""

    kind = "passages"
    command = "texts"

    def __init__(
        self,
        src: Path,
        key: str = "text",
        hold_out: float = 0.01,
        pack: int | None = None,
        tokenizer: str | None = None,
    ) -> None:
        """Take the raw file or folder.

        Args:
            src: A file, or a folder of files.
            key: Of the text in a JSON line.
            hold_out: Share of the lines that val gets where it has no files of its own.
            pack: Join and cut texts to so many tokens (words without a tokenizer); without it a line is a sample.
            tokenizer: Folder or hub name of what counts tokens for ``pack``.

        Raises:
            ValueError: The share is none, or ``pack`` has no room for a word.
            FileNotFoundError: There is no such tokenizer.
        """
        check_share(hold_out)
        if pack is not None and pack <= SPECIAL:
            raise ValueError(f"--pack is {pack}; it must be at least {SPECIAL + 1}")
        if tokenizer is not None and pack is None:
            raise ValueError("--tokenizer counts the tokens of --pack: name both, or neither")
        super().__init__(src.parent if src.is_file() else src)
        self.given, self.key, self.share, self.pack, self.tokenizer = src, key, hold_out, pack, tokenizer

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return none."""
        return ()

    @cached_property
    def all_files(self) -> tuple[Path, ...]:
        """All files of texts below the raw folder, sorted, or the one that was named."""
        if self.given.is_file():
            if self.given.suffix not in (*LINES, *PLAIN):
                raise ValueError(f"{self.given}: texts are read from {', '.join((*LINES, *PLAIN))}")
            return (self.given,)
        return tuple(sorted(path for path in self.src.rglob("*") if path.suffix in (*LINES, *PLAIN)))

    def own_files(self, split: str) -> tuple[Path, ...]:
        """Return the files that are a split's by their names."""
        if self.given.is_file():
            return ()
        below = self.src / split
        return tuple(f for f in self.all_files if (f.parent == self.src and f.stem == split) or below in f.parents)

    @cached_property
    def has_splits(self) -> bool:
        """Are files told apart by split?"""
        return any(self.own_files(split) for split in ("train", "val"))

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split.

        Raises:
            FileNotFoundError: There are none.
            ValueError: The split cannot be held out.
        """
        if not self.has_splits:
            check_known(split, self.given)
        found = self.own_files(split) if self.has_splits else self.all_files
        if not found:
            wanted = f"{split}{LINES[0]}, {split}{PLAIN[0]} or files below {split}" if self.has_splits else "texts"
            raise FileNotFoundError(
                f"{self.given} holds no {wanted}: --src must name a file or folder of {', '.join((*LINES, *PLAIN))}"
            )
        return found

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield every text, or passage of packed texts."""
        lines = Lines(self.annotation_files(split), self.src)
        if self.pack is None:
            for number in order(range(len(lines))):
                place = lines[number]
                if self._belongs(lines, place, split) and (text := self._text(lines, place, skip)):
                    yield self._item(f"{number + 1:09d}", text)
            return
        limit = self.pack if self.tokenizer is None else self.pack - SPECIAL
        for block in order(range(-(-len(lines) // TOGETHER))):
            numbers = range(block * TOGETHER, min((block + 1) * TOGETHER, len(lines)))
            if not self._belongs(lines, lines[numbers[0]], split):
                continue
            texts = filter(None, (self._text(lines, lines[number], skip) for number in numbers))
            for part, text in enumerate(packed(texts, limit, self.costs)):
                yield self._item(f"{block + 1:09d}-{part}", text)

    @cached_property
    def costs(self) -> Costs:
        """What counts the tokens of words; without a tokenizer each is one."""
        if self.tokenizer is None:
            return lambda words: [1] * len(words)
        tokenizer = load_tokenizer(self.tokenizer)
        return lambda words: [
            len(ids) for ids in tokenizer(list(words), add_special_tokens=False, verbose=False)["input_ids"]
        ]

    def _belongs(self, lines: Lines, place: Line, split: str) -> bool:
        return self.has_splits or split_of(f"{lines.name_of(place)}:{place.number}", self.share) == split

    def _text(self, lines: Lines, place: Line, skip: SkipDefect) -> str:
        """Return the text of a line; an empty one, counted unless the line is blank, where it has none."""
        where = f"{lines.name_of(place)}, line {place.number}"
        with place.file.open("rb") as file:
            file.seek(place.offset)
            line = read_line(file)
        if place.file.suffix in PLAIN:
            if len(line) > LONGEST_LINE:
                skip("line too long", f"{where}: more than {LONGEST_LINE:,} bytes")
                return ""
            try:
                return clean_text(line.decode())
            except UnicodeDecodeError as error:
                skip("not UTF-8", f"{where}: {error}")
                return ""
        row = parse_line(line, self.fields, where, skip)
        if row is None:
            return ""
        text = clean_text(row[self.key])
        if not text:
            skip("empty text", where)
        return text

    @property
    def fields(self) -> Fields:
        """What a line of JSON must hold."""
        return {self.key: Field("a text", lambda value: isinstance(value, str))}

    def _item(self, key: str, text: str) -> Item:
        """Make a record; equal texts have equal ids, so that a step has none of them twice where it can be avoided."""
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        return Item(key, None, Record(f"texts/{name}", texts=(Text(key, text, None),)))


class Lines(Sequence[Line]):
    """The lines of all files, by number, eight bytes each."""

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        """Find where each line begins."""
        self.files, self.root = files, root
        self.offsets: list[array[int]] = []
        for path in files:
            with path.open("rb") as file:
                self.offsets.append(line_offsets(file))
        self.ends = list(itertools.accumulate(map(len, self.offsets)))

    def __len__(self) -> int:
        """Return how many there are."""
        return self.ends[-1]

    def __getitem__(self, number: int) -> Line:  # type: ignore[override]
        """Return line ``number`` of all, from 0."""
        which = bisect.bisect_right(self.ends, number)
        own = number - (self.ends[which - 1] if which else 0)
        return Line(self.files[which], own + 1, self.offsets[which][own])

    def name_of(self, line: Line) -> str:
        """Return the name of a line's file, for messages."""
        return line.file.relative_to(self.root).as_posix()


def packed(texts: Iterable[str], limit: int, costs: Costs) -> Iterator[str]:
    """Join texts by spaces and cut them between words, so that no piece takes more than ``limit`` (but a longer word).

    Args:
        texts: In their order.
        limit: What a piece may take.
        costs: What words take.
    """
    kept: list[str] = []
    taken = 0
    for text in texts:
        words = text.split()
        for word, cost in zip(words, costs(words), strict=True):
            if kept and taken + cost > limit:
                yield " ".join(kept)
                kept, taken = [], 0
            kept.append(word)
            taken += cost
    if kept:
        yield " ".join(kept)
