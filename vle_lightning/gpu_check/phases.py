"""Where the time of a training step goes: forward by part, backward, clipping, optimiser; and how much is launched."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vle_lightning.gpu_check.device import synchronise

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")  # how names of such calls begin


class Phases:
    """Seconds of named phases, each measured to its end on the device: the sum exceeds that of a step left alone."""

    def __init__(self, device: torch.device) -> None:
        """Measure on a device."""
        self._device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what happens within to a phase."""
        synchronise(self._device)
        began = time.perf_counter()
        yield
        synchronise(self._device)
        self.seconds[name] += time.perf_counter() - began

    @contextmanager
    def forward_of(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        """Add the forward passes of these modules, each under ``forward/<name>``."""
        began: dict[str, float] = {}

        def start(name: str) -> None:
            synchronise(self._device)
            began[name] = time.perf_counter()

        def stop(name: str) -> None:
            synchronise(self._device)
            self.seconds[f"forward/{name}"] += time.perf_counter() - began[name]

        handles = []
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: start(name)))
            handles.append(module.register_forward_hook(lambda *_, name=name: stop(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def count_calls(device: torch.device) -> Iterator[dict[str, float]]:
    """Count what happens within: operators of torch, and on CUDA launches of kernels, with the kernels' own seconds."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    found: dict[str, float] = {}
    with profile(activities=activities) as profiler:
        yield found
        synchronise(device)
    events = list(profiler.events() or ())
    found["operators"] = float(sum(event.name.startswith("aten::") for event in events))
    if device.type == "cuda":
        found["launches"] = float(sum(event.name.startswith(LAUNCHES) for event in events))
        found["casts"] = float(sum(event.name == "aten::_to_copy" for event in events))
        kernels = [event for event in events if str(event.device_type) == "DeviceType.CUDA"]
        found["kernel_seconds"] = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
