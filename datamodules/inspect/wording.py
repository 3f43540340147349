"""The words of a sample, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from datamodules.records import Label, Question, RecordItem, Statement, Text, VCRItem, WholeImage
from datamodules.tagged import render

Item = RecordItem
CHOICES = 4  # answers and rationales of a VCR question (arXiv 1811.10830)


class Wording(NamedTuple):
    """A text of a sample."""

    part: str  # what it is: "question", "answer choice"
    text: str


def wordings(item: Item, called: Sequence[str]) -> Iterator[Wording]:
    """Yield the texts that a model reads of a sample.

    Args:
        item: The sample.
        called: The noun of each of its record's objects, for the tags of VCR.
    """
    match item:
        case WholeImage():
            return
        case Text() | Statement():
            yield Wording(type(item).__name__.lower(), item.text)
        case Question():
            yield Wording("question", item.question)
        case Label() if item.label is not None:
            yield Wording("label", item.label)
        case VCRItem():
            yield Wording("question", render(item.question, called).text)
            for choice in item.answer_choices:
                yield Wording("answer choice", render(choice, called).text)
            for choice in item.rationale_choices:
                yield Wording("rationale choice", render(choice, called).text)
