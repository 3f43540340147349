"""The table of GPUs against Lightning's."""

from __future__ import annotations

import pytest
from lightning.fabric.utilities.throughput import _CUDA_FLOPS

from vle_lightning.errors import UserError
from vle_lightning.plan.gpus import GPUS, find_gpu, peak

SAME = {"v100-32": "v100 sxm", "a100-40": "a100", "a100-80": "a100", "h100": "h100 sxm", "h100-pcie": "h100 pcie"}


@pytest.mark.parametrize(("ours", "theirs"), SAME.items())
def test_the_table_agrees_with_lightnings(ours: str, theirs: str) -> None:
    by_type = {str(dtype): flops for dtype, flops in _CUDA_FLOPS[theirs].items()}
    assert GPUS[ours].bf16 == by_type.get("torch.bfloat16")
    assert GPUS[ours].float32 == by_type["torch.float32"]


def test_lightnings_number_of_the_h200_is_with_sparsity() -> None:
    by_type = {str(dtype): flops for dtype, flops in _CUDA_FLOPS["h200 sxm1"].items()}
    assert GPUS["h200"].bf16 == pytest.approx(by_type["torch.bfloat16"] / 2, rel=0.02)


def test_lightnings_number_of_the_4090_is_without_tensor_cores() -> None:
    by_type = {str(dtype): flops for dtype, flops in _CUDA_FLOPS["rtx 4090"].items()}
    assert GPUS["rtx4090"].float32 == by_type["torch.bfloat16"]
    assert GPUS["rtx4090"].bf16 == 2 * by_type["torch.bfloat16"]


def test_an_unknown_gpu_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="--gpu: 'h1000' is not in the table; choose one of v100-32, a100-40, .*b200"):
        find_gpu("h1000")


def test_a_gpu_without_bf16_says_what_to_do() -> None:
    assert peak("v100-32", "32-true") == 15.7e12
    with pytest.raises(UserError, match=r"v100-32 has no bf16; plan with --trainer.precision 32-true"):
        peak("v100-32", "bf16-mixed")
    with pytest.raises(UserError, match="bf16-mixed, bf16-true and 32-true, not 16-mixed"):
        peak("h100", "16-mixed")
