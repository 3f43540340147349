"""What a GPU holds and how fast it multiplies, from the vendor's data sheets."""

from __future__ import annotations

from typing import NamedTuple

from vle_lightning.errors import UserError

BF16 = ("bf16-mixed", "bf16-true")  # precisions that compute in bf16


class Gpu(NamedTuple):
    """One kind of GPU.

    The memory is that of the data sheet in GB of 1e9 bytes, up to 7 % less than the driver reports: what the allocator
    cannot use because of fragmentation comes out of that.
    """

    memory: float  # bytes
    bf16: float | None  # FLOP/s of dense matrix products in bf16, summed in float32; None where it has no bf16
    float32: float  # FLOP/s in float32, without TF32


GPUS = {
    # NVIDIA V100 data sheet, SXM2: no bf16
    "v100-32": Gpu(32e9, None, 15.7e12),
    # NVIDIA A100 data sheet (SXM and PCIe alike); 624 with sparsity
    "a100-40": Gpu(40e9, 312e12, 19.5e12),
    "a100-80": Gpu(80e9, 312e12, 19.5e12),
    # NVIDIA L40S data sheet; 733 with sparsity
    "l40s": Gpu(48e9, 362e12, 91.6e12),
    # NVIDIA Ada GPU architecture whitepaper, appendix A: FP16/BF16 with FP32 accumulate
    "rtx4090": Gpu(24e9, 165.2e12, 82.6e12),
    # NVIDIA H100 data sheet; its 1,979 (SXM) and 1,513 (PCIe) are with sparsity, dense is half
    "h100": Gpu(80e9, 989.4e12, 66.9e12),
    "h100-pcie": Gpu(80e9, 756e12, 51.2e12),
    # NVIDIA H200 data sheet, SXM; its 1,979 is with sparsity
    "h200": Gpu(141e9, 989.4e12, 66.9e12),
    # NVIDIA HGX B200: 36 PFLOPS with sparsity, 600 TFLOPS in float32 and 1.44 TB, all of eight
    "b200": Gpu(180e9, 2250e12, 75e12),
}


def find_gpu(name: str) -> Gpu:
    """Return the GPU of that name.

    Raises:
        UserError: it is not in the table.
    """
    if name not in GPUS:
        raise UserError(f"--gpu: {name!r} is not in the table; choose one of {', '.join(GPUS)}")
    return GPUS[name]


def peak(name: str, precision: str) -> float:
    """Return the FLOP/s of a GPU's data sheet in a precision of the trainer.

    Raises:
        UserError: it has no such arithmetic, or the planner does not know the precision.
    """
    gpu = find_gpu(name)
    if precision == "32-true":
        return gpu.float32
    if precision not in BF16:
        raise UserError(f"trainer.precision: the planner knows {', '.join(BF16)} and 32-true, not {precision}")
    if gpu.bf16 is None:
        raise UserError(f"--gpu: {name} has no bf16; plan with --trainer.precision 32-true")
    return gpu.bf16
