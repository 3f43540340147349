"""Modules and batches of fake tensors: they have shapes, types and a device, but no values and no memory."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vle_lightning.batch import Batch

BatchT = TypeVar("BatchT", bound=Batch)


def make_fake(model: nn.Module) -> None:
    """Replace the weights and buffers of a module by fake ones on the default device, under a FakeTensorMode."""
    fakes: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in fakes:  # tied weights stay one
            made = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_weight = isinstance(tensor, nn.Parameter)
            fakes[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if is_weight else made
        return fakes[id(tensor)]

    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


def fake_batch(batch: BatchT) -> BatchT:
    """Return a batch of fake tensors on the default device; what it knows of its values on the host stays."""
    made = copy.copy(batch)
    for field in fields(batch):
        if isinstance(value := getattr(batch, field.name), Tensor):
            object.__setattr__(made, field.name, torch.empty(value.shape, dtype=value.dtype))
    return made
