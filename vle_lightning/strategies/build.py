"""From the name in an experiment file to a strategy."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import NamedTuple

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy, Strategy

from vle_lightning.errors import UserError
from vle_lightning.extras import require
from vle_lightning.strategies.bf16 import MasterWeightPrecision
from vle_lightning.strategies.deepspeed import ZeroPrecision, ZeroStrategy
from vle_lightning.strategies.fsdp import ShardedStrategy

STAGES = {"deepspeed_1": 1, "deepspeed_2": 2, "deepspeed_3": 3}
SPREADING = ("fsdp", "deepspeed_3")  # a rank lacks weights
STRATEGIES = ("auto", "ddp", "fsdp", *STAGES)


class Spread(NamedTuple):
    """What the trainer takes."""

    strategy: Strategy | str
    precision: Precision | None  # in place of the trainer's own


def make_strategy(
    name: str,
    accelerator: str,
    precision: str,
    offload: bool,
    timeout: float,
    sharded_checkpoints: bool = False,
    unused_weights: bool = False,
) -> Spread:
    """Make the strategy of that name.

    Args:
        name: one of ``STRATEGIES``.
        accelerator: as the trainer's option says.
        precision: likewise.
        offload: to the memory of the host, see `ZeroStrategy`.
        timeout: seconds that a collective may take.
        sharded_checkpoints: each rank writes its part of a folder, instead of rank zero one file.
        unused_weights: whether there are weights that no loss depends on.

    Raises:
        UserError: there is no such strategy, its package is not installed, or it cannot do what is asked for.
    """
    if name not in STRATEGIES:
        raise UserError(f"trainer.strategy: there is no {name!r}; choose one of {', '.join(STRATEGIES)}")
    if name in STAGES:
        require("deepspeed", "deepspeed", f"trainer.strategy {name}")
    if offload and name not in STAGES:
        raise UserError(f"offload: only {', '.join(STAGES)} can, not trainer.strategy {name}")
    if sharded_checkpoints and name not in ("fsdp", *STAGES):
        raise UserError(f"sharded_checkpoints: under trainer.strategy {name} every rank holds all there is to save")
    limit = timedelta(seconds=timeout)
    own = MasterWeightPrecision() if precision == "bf16-true" else None
    if name == "auto":
        return Spread(name, own)
    if name == "ddp":
        ddp = DDPStrategy(timeout=limit, gradient_as_bucket_view=True, find_unused_parameters=unused_weights)
        return Spread(ddp, own)
    if name == "fsdp":
        return Spread(ShardedStrategy(limit, sharded_checkpoints), None)
    if accelerator == "cpu" or not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed chooses by what the machine has, not by what is asked for
    zero = ZeroStrategy(STAGES[name], offload, limit, sharded_checkpoints)
    return Spread(zero, ZeroPrecision(precision))  # type: ignore[arg-type]
