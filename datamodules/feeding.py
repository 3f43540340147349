"""From the host to the device: pixels as bytes, copied beside the step in hand, and normalised where they arrive."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor

from datamodules.transforms import scale_and_shift
from vle_lightning.batch import Batch, Colours

BatchT = TypeVar("BatchT", bound=Batch)
PIXELS = ("pixel_values", "drawn_pixel_values")  # fields (..., 3, H, W) of batches


class Feeder:
    """Copies batches on a stream of their own.

    No step waits for the device, so that the host asks for a batch while the device still computes the step before: on
    a stream of its own the copy runs beside that step, and the next one waits for the copy alone.
    """

    def __init__(self) -> None:
        """Make no stream before it is needed: loading processes and CPUs have none."""
        self._stream: torch.cuda.Stream | None = None

    def move(self, batch: BatchT, device: torch.device) -> BatchT:
        """Return a batch with its tensors on a device; on CUDA they are there when the current stream needs them."""
        if device.type != "cuda":
            return batch.to(device, non_blocking=True)
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        with torch.cuda.stream(self._stream):
            moved = batch.to(device, non_blocking=True)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(self._stream)
        keep_until_read(moved, computing)
        return moved


def keep_until_read(batch: Batch, stream: torch.Stream) -> None:
    """Let the allocator keep the memory of tensors until a stream, which did not make them, is done with them."""
    for field in dataclasses.fields(batch):
        if isinstance(value := getattr(batch, field.name), Tensor):
            value.record_stream(stream)
    for other in batch.ahead:
        keep_until_read(other, stream)


def normalise_bytes(batch: BatchT, mean: Colours, std: Colours) -> BatchT:
    """Normalise those pictures of a batch that are bytes; all others stay as they are."""
    changes: dict[str, Any] = {
        field.name: to_floats(value, mean, std)
        for field in dataclasses.fields(batch)
        if field.name in PIXELS and (value := getattr(batch, field.name)).dtype == torch.uint8
    }
    if not changes:
        return batch
    ahead = tuple(normalise_bytes(other, mean, std) for other in batch.ahead)
    return dataclasses.replace(batch, **changes, ahead=ahead)


def to_floats(pixels: Tensor, mean: Colours, std: Colours) -> Tensor:
    """Normalise pixels (..., 3, H, W) uint8 on their device: the numbers of `transforms.normalise`, to the bit.

    Colour by colour, by plain numbers: a tensor of them would have to come from the host first.
    """
    found = pixels.to(torch.float32)
    for colour, (scale, shift) in enumerate(zip(*scale_and_shift(mean, std), strict=True)):
        found[..., colour, :, :].mul_(scale).add_(shift)
    return found
