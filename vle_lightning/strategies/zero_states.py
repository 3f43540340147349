"""Whole weights and moments out of DeepSpeed's engine, and into it again, on any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from vle_lightning.optim import parameter_groups
from vle_lightning.tasks.base import VisionLanguageTask

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW
KERNELS = ("fused", "foreach")  # which ones update; an optimiser of ZeRO keeps its own


class ZeroStates:
    """What ZeRO 1 to 3 spread over the ranks, parameter by parameter, through DeepSpeed's own accessors.

    Every method that moves tensors is called by all ranks together.
    """

    def __init__(self, task: VisionLanguageTask, engine: Any, stage: int) -> None:  # noqa: ANN401 (DeepSpeed is untyped)
        """Take the engine of a fit.

        Args:
            task: what it trains.
            engine: DeepSpeed's.
            stage: of ZeRO.
        """
        self._task, self._zero, self._stage = task, engine.optimizer, stage
        self._device = engine.device

    @property
    def adam(self) -> Optimizer:
        """The AdamW inside, over the flat partitions of this rank."""
        adam = self._zero.optimizer
        assert isinstance(adam, Optimizer)
        return adam

    def weights(self, keep: bool) -> dict[str, Tensor]:
        """Gather all weights in float32, by name.

        Args:
            keep: whether this rank wants them; the others help and get {}.
        """
        parameters = dict(self._task.named_parameters(remove_duplicate=False))
        whole: dict[int, Tensor] = {}  # by id: a tied weight once
        named: dict[str, Tensor] = {}
        for name, value in self._task.state_dict(keep_vars=True).items():
            source = parameters.get(name, value)
            if id(source) not in whole:
                whole[id(source)] = _kept(self._whole(source), keep)
            named[name] = whole[id(source)]
        return named if keep else {}

    def moments(self, keep: bool) -> dict[str, Any]:
        """Gather AdamW's state as one process would save it; see `weights`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps, state = self.steps(), {}
        self._link()
        for index, parameter in enumerate(self._trained()) if steps else ():
            moments = {key: _kept(safe_get_full_optimizer_state(parameter, key), keep) for key in MOMENTS}
            state[index] = {"step": torch.tensor(steps[0]), **moments}
        return {"state": state, "param_groups": self.groups()} if keep else {}

    def steps(self) -> list[float]:
        """Return the steps that AdamW has taken, of each of its flat partitions that took one."""
        return [float(state["step"]) for state in self.adam.state.values() if "step" in state]

    def groups(self) -> list[dict[str, Any]]:
        """Return AdamW's options by group, with its parameters by number."""
        groups: list[dict[str, Any]] = []
        first = 0
        for options, group in zip(self.adam.param_groups, parameter_groups(self._task, self._task.optim), strict=True):
            members = group["params"]
            assert isinstance(members, list)
            kept = {key: value for key, value in options.items() if key != "params"}
            groups.append({**kept, "params": list(range(first, first + len(members)))})
            first += len(members)
        return groups

    def names(self) -> list[str]:
        """Return the names of AdamW's parameters in the order of their numbers."""
        names = {id(parameter): name for name, parameter in self._task.named_parameters()}
        return [names[id(parameter)] for parameter in self._trained()]

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Spread the moments and the float32 weights of a checkpoint over the ranks."""
        saved = checkpoint["optimizer_states"][0]
        for group, options in zip(self.adam.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in options.items() if key not in ("params", *KERNELS)})
        steps = [float(state["step"]) for state in saved["state"].values()]
        if not steps:
            return
        for flat in self._partitions():
            zeros = {key: torch.zeros_like(flat) for key in MOMENTS}
            self.adam.state[flat] = {"step": torch.tensor(max(steps)), **zeros}
        self._link()
        for index, (name, parameter) in enumerate(zip(self.names(), self._trained(), strict=True)):
            self._set(parameter, checkpoint["state_dict"][name], None)
            for key, moment in saved["state"].get(index, {}).items():
                if key in MOMENTS:
                    self._set(parameter, moment, key)

    def _link(self) -> None:
        """Link each parameter to its moments: DeepSpeed does so within its first step, for its first group alone."""
        if self._stage < 3 and self.adam.state:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _partitions(self) -> list[Tensor]:
        zero, sharded = self._zero, self._stage == 3
        flat: list[Tensor] = zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups
        return flat

    def _trained(self) -> Iterator[nn.Parameter]:
        """Yield what trains in the order of AdamW's own numbers."""
        for group in parameter_groups(self._task, self._task.optim):
            members = group["params"]
            assert isinstance(members, list)
            yield from members

    def _whole(self, value: Tensor) -> Tensor:
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        if isinstance(value, nn.Parameter) and value.requires_grad:
            whole: Tensor | None = safe_get_full_fp32_param(value)
            if whole is not None:
                return whole
        with deepspeed.zero.GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
            return value.detach().clone()

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        from deepspeed import utils

        value = value.to(self._device, torch.float32)
        if self._stage == 3:  # its own slicing of whole values fails where ranks cannot share their numbers evenly
            value = _slice(value.flatten(), parameter.ds_tensor.numel())  # type: ignore[attr-defined]
            set_weight, set_moment = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
        else:
            set_weight, set_moment = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
        if key is None:
            set_weight(parameter, value)
        else:
            set_moment(parameter, value, key)


def _slice(numbers: Tensor, size: int) -> Tensor:
    """Return this rank's part (size,) of all numbers (N,), with zeros behind their end."""
    own = numbers[distributed.get_rank() * size :][:size]
    return F.pad(own, (0, size - len(own)))


def _kept(value: Tensor, keep: bool) -> Tensor:
    """Move a gathered tensor to the memory of the host, on the rank that wants it."""
    return value.detach().to("cpu", copy=True) if keep else value.new_empty(0)
