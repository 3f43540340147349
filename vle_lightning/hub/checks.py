"""Values of a config.json, checked against the type hints of what they are for, before anything is built of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transformers.activations import ACT2FN

from vle_lightning.errors import UserError

LEAST = {  # of whole numbers; 1 where nothing is said
    "token_types": 2,  # text and image
    "conv_kernel": 0,  # no convolution
    "fusion_layers": 0,  # no experts for pairs
    "pad_token_id": 0,
    "position_buckets": -1,  # these two: transformers' word for "not used"
    "max_relative_positions": -1,
}
MOST = 2**20  # of any number; a slip of the pen must not ask for more memory than there is
DIVIDES = (("heads", "width"), ("patch_size", "image_size"))  # the first divides the second
SHOWN = 60  # characters of a value in a message


def value_faults(hinted: object, values: Mapping[str, object], named: Callable[[str], str] = str) -> list[str]:
    """Say which values no field or parameter can have, each with the reason.

    Args:
        hinted: a dataclass of sizes, or a function, whose type hints tell the values' types.
        values: JSON's types, by the names of ``hinted``; a name without a hint is passed over.
        named: what a name is called in the file, for the message.
    """
    hints = get_type_hints(hinted)
    reasons = {name: _reason(name, value, hints[name]) for name, value in values.items() if name in hints}
    wrong = {name: reason for name, reason in reasons.items() if reason}
    for part, whole in DIVIDES:
        if {part, whole} <= values.keys() - wrong.keys() and _remainder(values[whole], values[part]):
            wrong[part] = f"must divide {named(whole)} = {values[whole]}"
    return [f"{named(name)} = {short(values[name])}: {reason}" for name, reason in wrong.items()]


def check_values(hinted: object, values: Mapping[str, object], where: str) -> None:
    """Raise a UserError that says which values cannot be; see `value_faults`."""
    if faults := value_faults(hinted, values):
        raise UserError(f"{where}: {'; '.join(faults)}")


def with_floats(hinted: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn whole numbers into floats where these are hinted: JSON may hold 0 for 0.0, which transformers refuses."""
    hints = get_type_hints(hinted)
    floats = {name for name in values if fits(values[name], float) and fits(0.5, hints[name])}
    return {name: float(value) if name in floats else value for name, value in values.items()}


def fits(value: object, hint: Any) -> bool:  # noqa: ANN401 (a type hint)
    """Is a value of JSON's types one of a type hint? A dataclass is given as an object, its values are not looked at.

    True and false are no numbers, and neither are NaN and infinity.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(one, parts[0]) for one in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, Mapping) else ((None, None),)
        return all(fits(key, parts[0]) and fits(one, parts[1]) for key, one in pairs)
    if isinstance(value, bool) and hint is not Any:
        return hint is bool
    if hint is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if is_dataclass(hint) or hasattr(hint, "_fields"):
        return isinstance(value, Mapping)
    return hint is Any or isinstance(value, hint)


def tell(hint: Any) -> str:  # noqa: ANN401 (a type hint)
    """Say in words what a type hint asks for."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(tell(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is list:
        return f"a list, of each {tell(parts[0])}"
    if origin is dict and parts[1] is not Any:
        return f"an object, under each key {tell(parts[1])}"
    return words.get(hint, "an object")


def _reason(name: str, value: object, hint: Any) -> str | None:  # noqa: ANN401 (a type hint)
    if not fits(value, hint):
        return f"give {tell(hint)}"
    if name.endswith("activation") and value not in ACT2FN:
        return f"no such activation; give one of transformers', such as {', '.join(sorted(ACT2FN)[:4])}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    least = 0 if fits(0.5, hint) else LEAST.get(name, 1)
    if not least <= value <= MOST:
        return f"must be at least {least}" if value < least else f"must be at most {MOST}"
    if name.endswith(("dropout", "eps", "drop_path")) and value >= 1:
        return "must be below 1"
    if name == "conv_kernel" and value and value % 2 == 0:
        return "must be odd, so that there are as many tokens behind the convolution as before it"
    return None


def _remainder(whole: object, part: object) -> bool:
    assert isinstance(whole, int)
    assert isinstance(part, int)
    return whole % part != 0


def short(value: object) -> str:
    """Write a value for a message, not longer than a line has room for."""
    told = repr(value)
    return told if len(told) <= SHOWN else f"{told[:SHOWN]}..."
