"""Temperatures of contrast as vectors of one number (1,); earlier checkpoints and VLMo's files hold them as ().

FSDP2 and ZeRO slice every parameter along its first dimension, which a single number lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

TEMPERATURE = "log_scale"  # the end of its name, the only parameter that ever was a single number
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, shaped as their parameter


def as_vectors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Give single numbers () among weights by name, or among the moments of a parameter, the shape (1,)."""
    return {
        key: value.reshape(1) if _ends_in(key, TEMPERATURE, *MOMENTS) and _is_single(value) else value
        for key, value in tensors.items()
    }


def as_numbers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give temperatures among weights the shape (), as VLMo's code has them."""
    return {key: value.reshape(()) if _ends_in(key, TEMPERATURE) else value for key, value in weights.items()}


def renew_temperatures(checkpoint: Mapping[str, Any]) -> None:
    """Reshape the temperatures of a run's checkpoint, and their moments, in place; broken states stay as they are."""
    states = [state.get("state") for state in checkpoint.get("optimizer_states", ()) if isinstance(state, dict)]
    moments = [held for state in states if isinstance(state, dict) for held in state.values()]
    for tensors in (checkpoint.get("state_dict"), *moments):
        if isinstance(tensors, dict):
            tensors.update(as_vectors(tensors))


def _ends_in(key: object, *names: str) -> bool:
    return str(key).rpartition(".")[2] in names


def _is_single(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0
