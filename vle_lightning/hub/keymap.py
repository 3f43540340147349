"""Renaming the tensors of foreign checkpoints by a table; nothing is passed over in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vle_lightning.errors import UserError

KeyMap = Mapping[str, str | None]  # regular expression of a whole key -> its name here, or None: dropped on purpose


def rename(weights: Mapping[str, Tensor], table: KeyMap, source: str) -> dict[str, Tensor]:
    """Give each tensor its name here.

    Args:
        weights: the checkpoint.
        table: tried in order; the first pattern that matches a whole key decides.
        source: for the message.

    Raises:
        UserError: no pattern matches a key; all such keys are listed.
    """
    patterns = [(re.compile(pattern), name) for pattern, name in table.items()]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in weights.items():
        found = next(((pattern, name) for pattern, name in patterns if pattern.fullmatch(key)), None)
        if found is None:
            unknown.append(key)
        elif found[1] is not None:
            renamed[found[0].sub(found[1], key)] = value
    if unknown:
        raise UserError(f"{source} holds {len(unknown)} tensors that are not known here: {', '.join(unknown[:10])}")
    return renamed
