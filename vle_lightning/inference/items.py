"""What a pipeline is asked: one item, a list or a stream, by keywords or as dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import islice, zip_longest
from numbers import Integral
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from vle_lightning.errors import UserError

SINGLE = (str, bytes, bytearray, PathLike, Image.Image, np.ndarray, torch.Tensor, Mapping)
END = object()  # of the shorter ones of several lists
Result = TypeVar("Result")


class Amount(IntEnum):
    """How much a value holds; a call takes the largest amount among its values."""

    ONE = 0
    LIST = 1
    STREAM = 2


class Item(NamedTuple):
    """One question to a pipeline; what its kind does not ask for is None."""

    place: str  # "item 3: ", for messages; empty where there is only one
    image: Any = None
    text: Any = None
    annotation: Any = None
    metadata: Any = None

    def read_text(self, name: str) -> str:
        """Return the text.

        Raises:
            UserError: there is none, or it is empty.
        """
        if not isinstance(self.text, str) or not self.text.strip():
            told = "is empty" if isinstance(self.text, str) else f"is a {type(self.text).__name__}"
            raise UserError(f"{self.place}the {name} {'is missing' if self.text is None else told}; give a text")
        return self.text


class Call(NamedTuple):
    """All items of one call."""

    amount: Amount
    items: Iterator[Item]

    def answer(self, batch_size: int, respond: Callable[[Sequence[Item]], Iterable[Result]]) -> Any:  # noqa: ANN401
        """Answer batch by batch.

        Args:
            batch_size: items of a batch.
            respond: gives one result for each item of a batch.

        Returns:
            One result, a list of them, or, for a stream, a generator that reads on as results are taken from it.
        """
        check_count("batch_size", batch_size)
        batches = iter(lambda: list(islice(self.items, batch_size)), [])
        results = (result for batch in batches for result in respond(batch))
        if self.amount is Amount.STREAM:
            return results
        found = list(results)
        return found[0] if self.amount is Amount.ONE else found


def gather(items: object, fields: Mapping[str, str], **values: object) -> Call:
    """Line up what a call was given.

    Args:
        items: one dictionary or many, or None.
        fields: keyword -> its name in `Item`, such as question -> text.
        values: by keyword, in place of ``items``; a single value goes with every item of the others.

    Raises:
        UserError: neither or both were given; while reading, that one has fewer items or other keywords.
    """
    given = {keyword: value for keyword, value in values.items() if value is not None}
    if (items is None) == (not given):
        told = ", ".join(fields)
        raise UserError(f"give one of two: the keywords {told}; or items, dictionaries with these keys")
    if items is not None:
        amount = amount_of(items)
        return Call(amount, _read_dictionaries([items] if amount is Amount.ONE else items, fields, amount))
    single = {fields[k]: value for k, value in given.items() if amount_of(value) is Amount.ONE}
    many = {fields[k]: value for k, value in given.items() if amount_of(value) is not Amount.ONE}
    return Call(max(map(amount_of, given.values())), _line_up(single, many))


def amount_of(value: object) -> Amount:
    """Tell one item, a list and a stream apart; an open file is one item, though one can iterate over its lines."""
    if isinstance(value, SINGLE) or not isinstance(value, Iterable) or hasattr(value, "read"):
        return Amount.ONE
    return Amount.LIST if isinstance(value, Sequence) else Amount.STREAM


def check_count(name: str, value: object) -> None:
    """Raise a UserError unless an option of a call is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"{name} is {value!r}, a {type(value).__name__}; give a whole number")
    if value < 1:
        raise UserError(f"{name} is {value}; it must be at least 1")


def _line_up(single: Mapping[str, Any], many: Mapping[str, Any]) -> Iterator[Item]:
    if not many:
        yield Item("", **single)
    for number, row in enumerate(zip_longest(*many.values(), fillvalue=END)):
        short = [name for name, value in zip(many, row, strict=True) if value is END]
        if short:
            raise UserError(f"item {number}: there is no {' and no '.join(short)} for it; give lists of equal length")
        yield Item(f"item {number}: ", **single, **dict(zip(many, row, strict=True)))


def _read_dictionaries(items: Any, fields: Mapping[str, str], amount: Amount) -> Iterator[Item]:  # noqa: ANN401
    for number, item in enumerate(items):
        place = "" if amount is Amount.ONE else f"item {number}: "
        if not isinstance(item, Mapping) or not item.keys() <= fields.keys():
            told = f"has {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"is a {type(item).__name__}"
            raise UserError(f"{place}an item is a dictionary with {', '.join(fields)}; this one {told}")
        yield Item(place, **{fields[keyword]: value for keyword, value in item.items()})
