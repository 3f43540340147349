"""Architectures in plain types: what an experiment file gives, and what checkpoints and exports hold of a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from vle_lightning.errors import UserError
from vle_lightning.hub.checks import check_values, with_floats
from vle_lightning.models.backbone import BackboneConfig
from vle_lightning.models.presets import ALL_PRESETS
from vle_lightning.parts import PartConfig, find_kind

Architecture = str | dict[str, Any] | BackboneConfig  # a preset's name, plain types, or the configuration itself
OPTION = "model.architecture"
DEFAULT_KIND = "dual_stream"  # of descriptions that name none: the first ones did not
PRESET, KIND = "preset", "kind"
SHARED = (  # sizes that a part of another kind takes over from the one that it replaces, where it has them, too
    "vocab_size",
    "width",
    "layers",
    "heads",
    "intermediate",
    "max_positions",
    "dropout",
    "attention_dropout",
    "image_size",
    "patch_size",
    "token_types",
)
# no weight depends on these, or (on Swin's window) none that is not resized with the pictures; that there is a layer
# scale the tensors tell, and its number is a start alone
FREE = (
    *("dropout", "attention_dropout", "drop_path", "image_size", "window_size"),
    *("init_std", "position_std", "layer_scale"),
)


def read_architecture(given: Architecture | Mapping[str, Any], where: str = OPTION) -> BackboneConfig:
    """Return the configuration that a preset's name or plain types stand for.

    Plain types are the fields of a backbone's configuration, its parts as objects; ``kind`` in any of them names the
    module that defines it. With ``preset`` they change that preset: a part of the same kind keeps what is not given,
    one of another kind takes over the sizes that both have (`SHARED`).

    Args:
        given: such as ``toy``, or ``{preset: toy, fusion: {kind: merged_attention, layers: 8}}``.
        where: the option or file, for messages.

    Raises:
        UserError: a preset, kind or field is unknown, a part is missing, or a value cannot be.
    """
    if isinstance(given, BackboneConfig):
        return given
    if isinstance(given, str):
        return _preset(given, where)
    content = dict(given)
    name = content.pop(PRESET, None)
    base = None if name is None else _preset(name, where)
    kind = content.pop(KIND, DEFAULT_KIND if base is None else base.kind)
    found = _find(BackboneConfig, kind, where)
    if base is not None and type(base) is not found:
        raise UserError(f"{where}: the preset {name!r} is a {base.kind}, not a {kind}; leave out preset or kind")
    config = _read(found, content, base, where, complete=base is None)
    assert isinstance(config, BackboneConfig)
    return config


def to_plain(config: PartConfig) -> dict[str, Any]:
    """Return a configuration in JSON's types, from which `read_architecture` makes it again."""
    values = _values(config)
    return {KIND: config.kind} | {
        name: to_plain(value) if isinstance(value, PartConfig) else value for name, value in values.items()
    }


def differences(theirs: BackboneConfig, ours: BackboneConfig) -> list[str]:
    """Name the options in which two networks differ, so that weights of one are of no use in the other."""
    if theirs.kind != ours.kind:
        return [f"architecture.kind is {theirs.kind!r}, the model has {ours.kind!r}"]
    there, here = (dict(_leaves(to_plain(config), "architecture")) for config in (theirs, ours))
    faults = []
    for name in {**there, **here}:
        if name.rsplit(".", 1)[-1] not in FREE and there.get(name) != here.get(name):
            faults.append(f"{name} is {there.get(name)!r}, the model has {here.get(name)!r}")
    return faults


def refuse_unknown(content: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raise a UserError that names the keys which are not among the known ones."""
    unknown = sorted(map(str, set(content) - known))
    if unknown:
        raise UserError(
            f"{where} holds unknown options: {', '.join(unknown)} (misspelt, or of a later version?); known are "
            f"{', '.join(sorted(known))}"
        )


def _preset(name: object, where: str) -> BackboneConfig:
    if not isinstance(name, str) or name not in ALL_PRESETS:
        raise UserError(f"{where}: no preset {name!r}; choose one of {', '.join(ALL_PRESETS)}")
    return ALL_PRESETS[name]


def _find(base: type[PartConfig], kind: object, where: str) -> type[Any]:
    if not isinstance(kind, str):
        raise UserError(f"{where}.kind is {kind!r}; give the name of a module")
    return find_kind(base, kind, where)


def _read(
    kind: type[Any], content: Mapping[str, Any], base: PartConfig | None, where: str, *, complete: bool = False
) -> PartConfig:
    """Make a configuration of ``kind``; what is not given is the base's, or the kind's default."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    refuse_unknown(content, set(names), where)
    parts = {name: part for name in names if (part := _part(hints[name])) is not None}
    taken = _taken_over(kind, base)
    values: dict[str, Any] = {name: taken[name] for name in names if name in taken}
    for name, part in parts.items():
        inner, optional = content.get(name), NoneType in get_args(hints[name])
        if name not in content or (inner is None and optional):
            if complete and not optional:
                needed = ", ".join(n for n in parts if NoneType not in get_args(hints[n]))
                raise UserError(f"{where} must hold the parts {needed}; {name} is missing (or start from a preset)")
            values = {**values, name: None} if name in content else values
            continue
        if not isinstance(inner, Mapping):
            raise UserError(f"{where}.{name} holds options (key: value), not {inner!r}")
        values[name] = _read_part(part, inner, values.get(name), getattr(kind(), name, None), f"{where}.{name}")
    plain = {name: value for name, value in content.items() if name not in parts}
    known = {name: value for name, value in {**_defaults(kind), **values}.items() if name not in parts}
    check_values(kind, {**known, **plain}, where)
    try:
        config: PartConfig = kind(**{**values, **with_floats(kind, plain)})
    except TypeError as error:  # a field of someone's own part has no default
        raise UserError(f"{where}: {str(error).split(') ')[-1]}") from error
    return config.resolved(where)


def _read_part(
    part: type[PartConfig], content: Mapping[str, Any], base: PartConfig | None, default: PartConfig | None, where: str
) -> PartConfig:
    given = dict(content)
    kind = given.pop(KIND, None)
    fallback = type(base or default) if (base or default) is not None else part
    found = fallback if kind is None else _find(part, kind, where)
    return _read(found, given, base, where)


def _taken_over(kind: type[Any], base: PartConfig | None) -> dict[str, Any]:
    """Return what a configuration starts from: all of a base of its kind, or the sizes that both have."""
    if base is None:
        return {}
    values = _values(base)
    if type(base) is kind:
        return values
    return {name: value for name, value in values.items() if name in SHARED}


def _values(config: PartConfig) -> dict[str, Any]:
    """Return the fields of a configuration, without turning its parts into plain types."""
    return {field.name: getattr(config, field.name) for field in fields(config)}  # type: ignore[arg-type]


def _part(hint: Any) -> type[PartConfig] | None:  # noqa: ANN401 (a type hint)
    """Return the configuration class that a type hint asks for, or None where it asks for a plain value."""
    for one in (hint, *get_args(hint)):
        if isinstance(one, type) and issubclass(one, PartConfig):
            return one
    return None


def _defaults(kind: type[Any]) -> dict[str, Any]:
    try:
        return asdict(kind())
    except TypeError:  # a field without a default
        return {}


def _leaves(content: Mapping[str, Any], name: str) -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", list(value) if isinstance(value, tuple) else value
