"""What arithmetic the processor at hand has, as the kernel tells (proc_cpuinfo(5))."""

from __future__ import annotations

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # Intel and AMD; Intel's matrices; Arm


def has_bf16_units(cpu_info: Path = CPU_INFO) -> bool | None:
    """Does the processor multiply bf16 by itself? None where the kernel does not tell.

    Without such units a product of matrices in bf16 is computed in float32 after all, and converted to and fro.
    """
    if not cpu_info.exists():
        return None
    lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return any(BF16_UNITS.intersection(flags) for flags in told) if told else None
