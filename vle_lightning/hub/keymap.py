"""Renaming the tensors of foreign checkpoints by a table; nothing is passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vle_lightning.errors import UserError

KeyMap = Mapping[str, str | None]  # regular expression of a whole key -> its name here, or None: dropped on purpose


class Renamed(NamedTuple):
    """What a table makes of a checkpoint."""

    weights: dict[str, Tensor]  # by the names here
    dropped: tuple[str, ...]  # on purpose
    unknown: tuple[str, ...]  # named by no pattern


def translate(weights: Mapping[str, Tensor], table: KeyMap) -> Renamed:
    """Give each tensor its name here.

    Args:
        weights: the checkpoint.
        table: tried in order; the first pattern that matches a whole key decides.

    Returns:
        The renamed tensors. A second tensor of one name counts as dropped where it equals the first, else as unknown.
    """
    patterns = [(re.compile(pattern), name) for pattern, name in table.items()]
    renamed: dict[str, Tensor] = {}
    dropped, unknown = [], []
    for key, value in weights.items():
        matches = ((pattern.fullmatch(key), name) for pattern, name in patterns)
        match, name = next(((match, name) for match, name in matches if match), (None, None))
        if match is None:
            unknown.append(key)
            continue
        name = name and match.expand(name)
        if name is None or (name in renamed and torch.equal(renamed[name], value)):
            dropped.append(key)
        elif name in renamed:
            unknown.append(key)
        else:
            renamed[name] = value
    return Renamed(renamed, tuple(dropped), tuple(unknown))


def rename(weights: Mapping[str, Tensor], table: KeyMap, source: str) -> dict[str, Tensor]:
    """Give each tensor its name here, as `translate` does.

    Raises:
        UserError: no pattern matches a key; all such keys are listed, under ``source``.
    """
    renamed, _, unknown = translate(weights, table)
    if unknown:
        raise UserError(f"{source} holds {len(unknown)} tensors that are not known here: {', '.join(unknown[:10])}")
    return renamed


def invert(table: KeyMap) -> KeyMap:
    r"""Return the table of the way back: patterns of our names, replaced by theirs.

    Each group of a pattern must stand once in its replacement; literals of a pattern may escape dots only.
    """
    back: dict[str, str | None] = {}
    for pattern, name in table.items():
        if name is not None:
            ours, theirs = _turn(pattern, name)
            back.setdefault(ours, theirs)
    return back


def _turn(pattern: str, name: str) -> tuple[str, str]:
    pieces = re.split(r"(\((?!\?)[^()]*\))", pattern)  # literal, group, literal, group, ..., literal
    groups = pieces[1::2]
    ours = re.sub(r"\\\\(\d)", lambda m: groups[int(m[1]) - 1], re.escape(name))
    places = {int(number): place for place, number in enumerate(re.findall(r"\\(\d)", name), 1)}
    theirs = "".join(
        piece.replace("\\.", ".") if place % 2 == 0 else f"\\{places[place // 2 + 1]}"
        for place, piece in enumerate(pieces)
    )
    return ours, theirs
