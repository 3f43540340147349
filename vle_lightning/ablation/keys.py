"""Checks of a study file's keys, each with one sentence that names the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vle_lightning.errors import UserError


def check_keys(content: Mapping[str, Any], known: set[str], where: str, needed: Sequence[str] = ()) -> None:
    """Refuse unknown keys, and missing ones.

    Raises:
        UserError: names them and the place.
    """
    if unknown := sorted(str(key) for key in content if key not in known):
        raise UserError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if missing := [key for key in needed if key not in content]:
        raise UserError(f"{where}: {', '.join(missing)} is missing")


def as_mapping(content: object, where: str) -> Mapping[str, Any]:
    """Return a group of options, {} where it is empty.

    Raises:
        UserError: it is something else.
    """
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UserError(f"{where} holds options (key: value), not {content!r}")
    return content


def as_names(content: object, where: str) -> tuple[str, ...]:
    """Return a list of different names.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise UserError(f"{where} is a list of names, not {content!r}")
    if len(set(content)) < len(content):
        raise UserError(f"{where} holds {content}; give each once")
    return tuple(content)
