"""Texts with tagged objects as plain sentences (VCR, arXiv 1811.10830)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from datamodules.records import TaggedText

PERSON = "person"
UNKNOWN = "object"  # called so where the class is not known
# in the order of R2C (arXiv 1811.10830), whose list the published checkpoints were trained with
NEUTRAL_NAMES = (
    *("Casey", "Riley", "Jessie", "Jackie", "Avery", "Jaime", "Peyton", "Kerry"),
    *("Jody", "Kendall", "Payton", "Skyler", "Frankie", "Pat", "Quinn"),
)


class Rendered(NamedTuple):
    """A tagged text as plain words, with the characters (start, end) of each mention of an object."""

    text: str
    mentions: tuple[tuple[int, int, int], ...]  # start, end, number of the object

    @property
    def tags(self) -> set[int]:
        """Return the numbers of the objects that are mentioned."""
        return {tag for _, _, tag in self.mentions}

    def typed(self, types: dict[int, int]) -> list[tuple[int, int, int]]:
        """Return start, end and token type of each mention; objects without a type stay plain words."""
        return [(start, end, types[tag]) for start, end, tag in self.mentions if tag in types]


def nouns(names: Sequence[str]) -> list[str]:
    """Return how each object is called: by its class, persons by gender-neutral names in order of number."""
    persons = [number for number, name in enumerate(names) if name == PERSON]
    called = {number: NEUTRAL_NAMES[i % len(NEUTRAL_NAMES)] for i, number in enumerate(persons)}
    return [called.get(number, name or UNKNOWN) for number, name in enumerate(names)]


def render(parts: TaggedText, called: Sequence[str]) -> Rendered:
    """Write a tagged text with a space between any two words, as published checkpoints know them ("house ?").

    Several objects of one tag are joined by "and".

    Args:
        parts: words and tags.
        called: the noun of each object.
    """
    text, mentions = "", []
    for part in parts:
        if isinstance(part, str):
            text += f" {part}" if text else part
            continue
        for i, tag in enumerate(part):
            text += " and " if i else " " if text else ""
            mentions.append((len(text), len(text) + len(called[tag]), tag))
            text += called[tag]
    return Rendered(text, tuple(mentions))
