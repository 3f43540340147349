"""What the device can do at best: the rate of a large matrix product, and of a large copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vle_lightning.gpu_check.device import synchronise
from vle_lightning.gpu_check.report import Report

SIZES = {"cuda": 8192, "cpu": 256}  # rows and columns of the square matrices
COPIED = {"cuda": 2**31, "cpu": 2**20}  # bytes
REPEATS = 10


def check_rates(device_name: str, report: Report) -> None:
    """Measure the best rates in bf16 on random numbers; zeros would be faster than any training.

    Args:
        device_name: cuda or cpu.
        report: takes TFLOP/s of the product, and GB/s of the copy, bytes read and written.
    """
    device, size = torch.device(device_name), SIZES[device_name]
    report.add(settings={"device": device_name, "size": size, "bytes": COPIED[device_name]})
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = median_seconds(device, lambda: left @ right)
    report.add(matmul_tflops=2 * size**3 / seconds / 1e12)
    source = torch.randint(0, 256, (COPIED[device_name],), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = median_seconds(device, lambda: target.copy_(source))
    report.add(copy_gb_per_second=2 * len(source) / seconds / 1e9)


def median_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return the median time of some work, after three rounds that count for nothing."""
    times = []
    for _ in range(3 + REPEATS):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return sorted(times[3:])[REPEATS // 2]
