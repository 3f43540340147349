"""Numbers on their way from the device to the host, which goes on meanwhile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Arrival(NamedTuple):
    """Numbers that were sent to the host."""

    numbers: Tensor  # on the host
    event: torch.cuda.Event | None  # done when they are there; None: they are

    def read(self) -> Tensor:
        """Return the numbers, as soon as they are there."""
        if self.event is not None:
            self.event.synchronize()
        return self.numbers


def send(numbers: Tensor) -> Arrival:
    """Send numbers to the host; from a GPU without waiting for what it has to do before."""
    if numbers.device.type != "cuda":
        return Arrival(numbers, None)
    on_host = numbers.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return Arrival(on_host, event)
