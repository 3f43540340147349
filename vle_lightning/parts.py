"""Parts that models are composed of: each is a module with one configuration, which an experiment names as ``kind``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, ClassVar, Self

from vle_lightning.errors import UserError


class PartConfig:
    """Base of the configurations: frozen dataclasses of plain values and further parts that build their module."""

    family: ClassVar[str]  # the package whose modules are the kinds that ship
    abstract: ClassVar[bool] = True  # in the class's own body: a base, which builds nothing itself

    @property
    def kind(self) -> str:
        """Return what an experiment calls this kind of part: a module of the family, or a module's full name."""
        module = type(self).__module__
        return module.removeprefix(f"{self.family}.")

    def resolved(self, where: str) -> Self:
        """Return the same configuration with nothing left to look up elsewhere, such as the sizes of a hub name."""
        del where
        return self


def find_kind(base: type[PartConfig], kind: str, where: str) -> type[Any]:
    """Return the configuration class of a kind of part.

    Args:
        base: what the configuration has to be: a text encoder's, an image encoder's, a fusion's or a backbone's.
        kind: a module of the base's family, such as ``deberta``, or any module by its full name.
        where: the option, for messages.

    Raises:
        UserError: the module is not found, cannot be imported, or does not define such a configuration.
    """
    name = f"{base.family}.{kind}" if "." not in kind and kind in _modules(base.family) else kind
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _broken(where, kind, error) from error
        raise UserError(
            f"{where}.kind is {kind!r}; choose {', '.join(kinds_of(base))}, or name a module of your own that Python "
            "finds (PYTHONPATH)"
        ) from error
    except Exception as error:  # someone's own module may raise anything
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"{where}.kind is {kind!r}; choose {', '.join(kinds_of(base))}") from error
        raise _broken(where, kind, error) from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and _is_concrete(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(
            f"{where}.kind is {kind!r}, but the module {name} does not define one {base.__name__}; choose "
            f"{', '.join(kinds_of(base))}"
        )
    return found[0]


def kinds_of(base: type[PartConfig]) -> list[str]:
    """Return the kinds of a part that ship."""
    names = []
    for name in _modules(base.family):
        module = importlib.import_module(f"{base.family}.{name}")
        owned = (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)
        if any(_is_concrete(value, base) for value in owned):
            names.append(name)
    return sorted(names)


def _broken(where: str, kind: str, error: Exception) -> UserError:
    told = " ".join(str(error).split())
    return UserError(f"{where}.kind: the module {kind} cannot be imported: {type(error).__name__}: {told}")


def _is_concrete(value: type[object], base: type[PartConfig]) -> bool:
    return issubclass(value, base) and not vars(value).get("abstract", False)


def _modules(family: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(family).__path__)]
