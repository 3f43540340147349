"""Filling modules with weights: every tensor lands, is cast or resized, or the load fails by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.errors import UserError
from vle_lightning.hub.folder import not_finite
from vle_lightning.hub.temperatures import as_vectors

POSITIONS = "position_embedding.weight"
SHOWN = 20  # faults in a message


class LoadReport(NamedTuple):
    """What happened to a checkpoint's tensors, by name."""

    source: str
    tensors: int
    parameters: int  # numbers loaded
    resized: tuple[str, ...] = ()  # position tables, with their sizes
    dropped: tuple[str, ...] = ()  # what the source holds and this model has no place for: heads of tasks, buffers
    cast: tuple[str, ...] = ()  # tensors of another float type
    new: tuple[str, ...] = ()  # heads that the source does not hold

    def __str__(self) -> str:
        """Return one sentence for the log."""
        text = f"loaded {self.parameters:,} parameters in {self.tensors} tensors from {self.source}"
        if self.cast:
            text += f"; cast {len(self.cast)} tensors of another float type"
        if self.resized:
            text += f"; resized {', '.join(self.resized)}"
        if self.new:
            text += f"; newly made: {', '.join(self.new)}"
        if self.dropped:
            text += f"; left out {', '.join(self.dropped)}"
        return text


class Own(NamedTuple):
    """The tensors of some modules; one that stands in several places has one name."""

    tensors: dict[str, Tensor]
    tied: dict[str, str]  # a further name of a tensor -> its name


def own_tensors(parts: Mapping[str, nn.Module]) -> Own:
    """Collect the tensors of modules.

    Args:
        parts: modules by the prefix of their names, such as ``{"": encoder, "head.": head}``.
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[int, str] = {}
    for prefix, module in parts.items():
        for key, value in module.state_dict(keep_vars=True).items():
            first = names.setdefault(id(value), prefix + key)
            if first == prefix + key:
                tensors[first] = value
            else:
                tied[prefix + key] = first
    return Own(tensors, tied)


def fill(
    parts: Mapping[str, nn.Module],
    weights: Mapping[str, Tensor],
    report: LoadReport,
    option: str,
    faults: Iterable[str] = (),
    named: Callable[[str], str] = str,
) -> LoadReport:
    """Load weights into modules, all of them and nothing else; a position table is resized to the module's grid.

    Args:
        parts: what is filled: modules by the prefix of their names.
        weights: by the names of ``parts``. A tied tensor may be there once or several times, but equal.
        report: source, what was left out, what is new.
        option: of the experiment file, for the message.
        faults: what is wrong already.
        named: a tensor's name in the source, for the message.

    Returns:
        The report, completed.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, not of floats or not finite; each is listed.
    """
    own, tied = own_tensors(parts)
    given, differ = _untie(as_vectors(weights), tied)
    resized = _resize_positions(own, given)
    wrong = [*faults, *(f"{named(key)} differs from {named(tied[key])}, to which it is tied" for key in differ)]
    if wrong := [*wrong, *_misfits(own, given, named)]:
        raise UserError(f"{option}: {report.source} {_told(wrong)}")
    if sick := [named(key) for key in not_finite(given)]:
        more = f" and {len(sick) - SHOWN} more" if len(sick) > SHOWN else ""
        raise UserError(
            f"{option}: {report.source} holds weights that are not finite (NaN or infinity): "
            f"{', '.join(sick[:SHOWN])}{more}. It is damaged, or its training became unstable; take another checkpoint"
        )
    cast = tuple(
        f"{named(k)} {_kind(v)} -> {_kind(own[k])}" for k, v in sorted(given.items()) if v.dtype != own[k].dtype
    )
    with torch.no_grad():
        for key, value in given.items():
            own[key].copy_(value)
    count = sum(value.numel() for value in given.values())
    return report._replace(tensors=len(given), parameters=count, resized=resized, cast=cast)


def _untie(weights: Mapping[str, Tensor], tied: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """Keep one of tied tensors under its first name, and name those that differ from it."""
    given = dict(weights)
    differ = [key for key in tied.keys() & given.keys() if not _same(given, key, tied[key])]
    for key in tied.keys() & given.keys():
        value = given.pop(key)
        given.setdefault(tied[key], value)
    return given, differ


def _told(wrong: Sequence[str]) -> str:
    shown = "\n  ".join(sorted(wrong)[:SHOWN])
    more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return (
        "does not fit model.architecture (another width, depth or vocabulary?). "
        f"{len(wrong)} tensors or options differ:\n  {shown}{more}"
    )


def _same(weights: Mapping[str, Tensor], key: str, other: str) -> bool:
    return other not in weights or torch.equal(weights[key], weights[other])


def _resize_positions(own: Mapping[str, Tensor], weights: dict[str, Tensor]) -> tuple[str, ...]:
    resized = []
    for key, place in own.items():
        table = weights.get(key)
        if table is None or not key.endswith(POSITIONS) or table.shape == place.shape:
            continue
        if table.ndim == 2 and table.shape[1] == place.shape[1] and _is_square(len(table)):
            side = round((len(place) - 1) ** 0.5)
            weights[key] = resize_position_table(table, (side, side))
            resized.append(f"{key} {tuple(table.shape)} -> {tuple(place.shape)}")
    return tuple(resized)


def _is_square(rows: int) -> bool:
    return rows > 1 and round((rows - 1) ** 0.5) ** 2 == rows - 1


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], named: Callable[[str], str]) -> list[str]:
    faults = [f"{named(key)} is missing" for key in own if key not in weights]
    faults += [f"{named(key)} is unknown here" for key in weights if key not in own]
    for key in own.keys() & weights.keys():
        given, place = weights[key], own[key]
        if given.shape != place.shape:
            faults.append(f"{named(key)} is {tuple(given.shape)}, the model has {tuple(place.shape)}")
        elif given.is_floating_point() != place.is_floating_point():
            faults.append(f"{named(key)} holds {_kind(given)}, the model {_kind(place)}")
    return faults


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
