"""Packages of the extras in pyproject.toml, which loading and running a checkpoint does not need."""

from __future__ import annotations

from importlib.util import find_spec

from vle_lightning.errors import UserError


def require(package: str, extra: str, purpose: str) -> None:
    """Make sure that a package of an extra is installed; the caller imports it afterwards.

    Args:
        package: by the name that Python imports.
        extra: that brings it.
        purpose: what needs it, as the subject of the message.

    Raises:
        UserError: it is not installed.
    """
    if find_spec(package) is None:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: pip install 'vle-lightning[{extra}]', "
            f"or pip install '.[{extra}]' in a checkout"
        )
