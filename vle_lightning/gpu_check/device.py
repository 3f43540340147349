"""All that is asked of a device itself; on the CPU, where the checks are tested, there is less to ask."""

from __future__ import annotations

import gc
import platform
import shutil
import subprocess

import torch

GIB = 2**30  # bytes


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peaks(device: torch.device) -> None:
    """Give back what is free and forget how much memory was in use; on the CPU nobody asks."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return in GiB how much memory tensors took at most, and how much the allocator held; {} on the CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "peak_reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
    }


def describe(device: torch.device) -> dict[str, object]:
    """Say which hardware this is: its name, its memory in GiB, the driver's version (None where not known)."""
    if device.type != "cuda":
        return {"hardware": f"CPU {platform.machine()}", "memory_gib": None, "driver": None}
    about = torch.cuda.get_device_properties(device)
    return {
        "hardware": torch.cuda.get_device_name(device),
        "memory_gib": round(about.total_memory / GIB, 1),
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "visible_gpus": torch.cuda.device_count(),
    }


def driver_version() -> str | None:
    """Ask nvidia-smi, for torch knows only which CUDA a driver supports; None where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None
