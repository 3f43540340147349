"""Our pre-training step in bf16 beside itself in float32, on a processor that multiplies bf16 by itself."""

from __future__ import annotations

import sys
from functools import partial

import torch

from vle_lightning.batch import PretrainBatch
from vle_lightning.bench.pretraining import build, our_loss, step_seconds
from vle_lightning.bench.timing import Measurement, best_of_alternating, product_seconds, share_of_product_rate
from vle_lightning.flops import count_flops
from vle_lightning.processor import has_bf16_units
from vle_lightning.tasks.pretrain import PretrainTask


def mixed_loss(task: PretrainTask, batch: PretrainBatch) -> torch.Tensor:
    """Compute our loss as ``trainer.precision bf16-mixed`` does."""
    with torch.autocast("cpu", torch.bfloat16):
        return our_loss(task, batch)


def bench_bf16(architecture: str, repeats: int) -> Measurement:
    """Time a step in both precisions in turn, best of ``repeats``; nothing where bf16 would only be emulated."""
    if not has_bf16_units():
        print("bf16: not measured, for this processor is not known to multiply bf16 by itself", file=sys.stderr)
        return {}
    return compare_precisions(architecture, repeats)


def compare_precisions(architecture: str, repeats: int) -> Measurement:
    """Time a step and a large matrix product in both precisions in turn, best of ``repeats``."""
    task, batch = build(architecture)
    best = best_of_alternating(
        {
            "float32": partial(step_seconds, our_loss, task, batch),
            "bf16": partial(step_seconds, mixed_loss, task, batch),
            "bf16_product": partial(product_seconds, torch.bfloat16),
        },
        repeats,
    )
    flops = count_flops(task, lambda: our_loss(task, batch))
    return {
        "bf16_step_seconds/float32": best["float32"],
        "bf16_step_seconds/bf16": best["bf16"],
        "bf16_step_speedup": best["float32"] / best["bf16"],
        **share_of_product_rate("bf16_step", flops, best["bf16"], best["bf16_product"]),
    }
