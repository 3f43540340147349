"""What is optimised and how fast: parameter groups and the learning-rate schedule, shared by all tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vle_lightning.errors import UserError

MODEL = "model."  # the beginning of the names of the backbone's parameters
NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with METER's settings (arXiv 2111.02387, appendix); learning rates are per optimiser step."""

    lr: float = 1e-5  # of the towers; METER's pre-training
    fusion_multiplier: float = 5.0  # METER; of the poolers, too
    head_multiplier: float = 5.0  # METER
    projection_multiplier: float | None = None  # from the towers' width to the fusion's; None: as the fusion (METER)
    token_type_multiplier: float | None = None  # None: as the fusion (ours; VLE's and METER's is 1)
    weight_decay: float = 0.01  # METER; none on norms, biases and Swin's tables of position biases
    decay_head_norms: bool = False  # on the norms of classifiers, which VLE's and METER's rule by name overlooks
    decay_expert_norms: bool = False  # on the norms before experts, which VLMo's rule by name overlooks
    betas: tuple[float, float] = (0.9, 0.98)  # METER
    warmup: float = 0.1  # share of all steps, METER
    end: float = 0.0  # learning rate at the last step, as a share of the peak

    def check(self) -> None:
        """Raise UserError for a value that no training can use."""
        rates = ("lr", "fusion_multiplier", "head_multiplier", "projection_multiplier", "token_type_multiplier")
        for name in rates:
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise UserError(f"model.optim.{name} is {getattr(self, name)}; it must be above 0, and finite")
        for name in ("warmup", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"model.optim.{name} is {getattr(self, name)}; give a share from 0 to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"model.optim.weight_decay is {self.weight_decay}; it must not be negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"model.optim.betas is {self.betas}; each must be at least 0 and below 1")


def parameter_groups(task: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Split what trains into towers, fusion and heads, each with and without weight decay.

    The encoder is the task's ``model``; all else is a head. Projections and token types are a part of their own where
    the configuration gives them a rate, else they belong to the fusion.
    """
    given = {
        "tower": 1.0,
        "fusion": config.fusion_multiplier,
        "head": config.head_multiplier,
        "projection": config.projection_multiplier,
        "token_type": config.token_type_multiplier,
    }
    multipliers = {part: multiplier for part, multiplier in given.items() if multiplier is not None}
    undecayed = {
        id(parameter)
        for name, module in task.named_modules()
        if isinstance(module, NORMS)
        and not (config.decay_head_norms and in_classifier(name))
        and not (config.decay_expert_norms and in_expert(name))
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            part = rate_of(task, name)
            part = part if part in multipliers else "fusion"
            decayed = id(parameter) not in undecayed and "bias" not in name.rpartition(".")[2]
            groups.setdefault((part, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * multipliers[part],
            "weight_decay": config.weight_decay if decayed else 0.0,
            "name": part if decayed else f"{part}_no_decay",
        }
        for (part, decayed), parameters in groups.items()
    ]


def rate_of(task: nn.Module, name: str) -> str:
    """Return the learning-rate group of a parameter by its name in the task; the backbone names those of its own."""
    if not name.startswith(MODEL):
        return "head"
    rates: Mapping[str, str] = getattr(task.get_submodule(MODEL.rstrip(".")), "rates", {})
    own = name.removeprefix(MODEL)
    return next((rate for beginning, rate in rates.items() if own.startswith(beginning)), "fusion")


def in_classifier(name: str) -> bool:
    """Is a module part of a classifier? MLM's head has a norm that VLE and METER name as one, and leave undecayed."""
    return not name.startswith(("model.", "objectives.mlm."))


def in_expert(name: str) -> bool:
    """Is a module part of an expert? VLMo's rule names ``norm2``, which its code calls ``norm2_text`` and so on."""
    return name.startswith(MODEL) and ".experts." in name


def schedule_factor(step: int, steps: int, warmup: float, end: float = 0.0) -> float:
    """Return the learning rate of a step as a share of its peak: linear up from 0, then linear down to ``end``.

    With ``end`` 0 it is transformers' linear schedule, which VLE and METER use: the first step's rate is 0, and step
    ``round(steps * warmup)`` alone is taken at the peak.

    Args:
        step: optimiser steps taken so far.
        steps: optimiser steps of the whole run.
        warmup: share of the steps over which the rate rises.
        end: the share that is left at the last step.
    """
    rising = round(steps * warmup)
    if step < rising:
        return step / rising
    return max(end, 1 - (1 - end) * (step - rising) / max(steps - rising, 1))


def make_optimizer(
    task: nn.Module, config: OptimConfig, steps: int, *, fused: bool = True
) -> tuple[Optimizer, LambdaLR]:
    """Make AdamW and its schedule over ``steps`` optimiser steps.

    One fused kernel a group updates all of its weights, on the CPU and on CUDA; ``fused=False`` is for strategies that
    bring kernels of their own.
    """
    groups = parameter_groups(task, config)
    optimizer = AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, fused=fused)
    # a fused kernel could undo the loss scaling of float16 itself, so Lightning refuses to clip before it; told that
    # this one does not, its scaler undoes it first, and bf16 has none
    optimizer._step_supports_amp_scaling = False
    return optimizer, LambdaLR(optimizer, lambda step: schedule_factor(step, steps, config.warmup, config.end))


def fuse_saved(checkpoint: Mapping[str, Any]) -> None:
    """Let the optimiser of a checkpoint be fused, in place: earlier runs in mixed precision saved that it was not."""
    for state in checkpoint.get("optimizer_states", ()):
        for group in state.get("param_groups", ()) if isinstance(state, dict) else ():
            group |= {"fused": True, "foreach": None}


def renew(optimizer: Optimizer, schedule: LambdaLR, task: nn.Module, config: OptimConfig) -> None:
    """Let a resumed optimiser go on with the rates of ``config`` instead of those that it was saved with.

    With the same options nothing changes, to the last bit.

    Args:
        optimizer: AdamW of `make_optimizer`, or an engine's around it, with its moments.
        schedule: of `make_optimizer`, at the step that the run goes on from.
        task: what it trains.
        config: of this start.
    """
    fresh = parameter_groups(task, config)
    schedule.base_lrs = [float(str(group["lr"])) for group in fresh]
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    for group, options, factor in zip(optimizer.param_groups, fresh, factors, strict=True):
        group["initial_lr"], group["betas"] = options["lr"], config.betas
        group["lr"], group["weight_decay"] = group["initial_lr"] * factor, options["weight_decay"]
