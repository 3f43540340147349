"""ZeRO (arXiv 1910.02054) by DeepSpeed, on GPUs and on CPUs, with the checkpoints of every other strategy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from importlib import import_module
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.fabric.utilities.types import Steppable
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from vle_lightning.optim import parameter_groups
from vle_lightning.tasks.base import VisionLanguageTask

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO 1 to 3. A checkpoint is one plain file with whole weights and moments, in float32.

    So it opens everywhere, and a run goes on from it on any number of ranks under any strategy. DeepSpeed's own
    folders, which are written faster, depend on the stage and on the number of ranks; `vle_lightning.hub.sharded`
    makes the same file of them.
    """

    def __init__(self, stage: int, offload: bool, timeout: timedelta, sharded_checkpoints: bool = False) -> None:
        """Prepare the engine.

        Args:
            stage: 1 shards the optimiser's state, 2 the gradients as well, 3 the weights as well.
            offload: keep the optimiser's state, and under stage 3 the weights that are not in use, in the memory of
                the host.
            timeout: of a collective.
            sharded_checkpoints: write DeepSpeed's own folders, of which each rank writes a part.
        """
        self.sharded_checkpoints = sharded_checkpoints
        super().__init__(stage=stage, offload_optimizer=offload, offload_parameters=offload and stage == 3)
        self._timeout = timeout
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW needs no compiler
        self._skipping = False

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Say no: weights are read while they are whole."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Say yes: `load_optimizer_state_dict` shards what a checkpoint has whole."""
        return True

    def setup_environment(self) -> None:
        """Join the ranks; the parent refuses whatever is no GPU."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Start DeepSpeed's communication."""
        assert self.parallel_devices is not None
        if self.root_device.type == "cuda":
            super().setup_distributed()
            return
        # shared-memory kernels for CPUs: compiling them takes a minute and a compiler; gloo is there
        import_module("deepspeed.comm.torch").__dict__["build_shm_op"] = lambda: None
        self.parallel_devices = [torch.device("cpu", 0)] * len(self.parallel_devices)  # DeepSpeed asks for an index
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def init_deepspeed(self) -> None:
        """Make the engine; under stage 3 the weights outside of the layers are whole during a step."""
        super().init_deepspeed()
        zero = self.deepspeed_engine.optimizer
        if hasattr(zero, "check_grad_overflow"):  # for float32 as well: a step without a finite norm updates nothing
            zero.check_grad_overflow = True
        if self.zero_stage_3:
            import deepspeed

            for parameter in self._outside():
                deepspeed.zero.register_external_parameter(self._task, parameter)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Hold whole what no layer gathers, for calls of the model outside of a step."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(self._outside() if self.zero_stage_3 else []):
            yield

    def skip_step(self) -> None:
        """Let the optimiser step that is being prepared update nothing."""
        self._skipping = True

    def backward_factor(self) -> float:
        """Return what the loss of this micro-batch is to be multiplied by: not a number where its step is skipped."""
        factor = float("nan") if self._skipping else 1.0
        self._skipping = False
        return factor

    def gradient_norm(self) -> float | None:
        """Return the norm of the latest step's whole gradient before clipping; infinite for one that was not finite."""
        norm = self.deepspeed_engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the weights in float32: by name on rank zero, {} on the others; {} where the engine writes them."""
        if self.sharded_checkpoints:
            return {}
        parameters = dict(self._task.named_parameters(remove_duplicate=False))
        whole: dict[int, Tensor] = {}  # by id: a tied weight once
        weights: dict[str, Any] = {}
        for name, value in self._task.state_dict(keep_vars=True).items():
            source = parameters.get(name, value)
            if id(source) not in whole:
                whole[id(source)] = self._keep(self._whole(source))
            weights[name] = whole[id(source)]
        return weights if self.is_global_zero else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather the moments: AdamW's own state on rank zero, as one process would save it; {} on the others."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps: list[float] = [float(state["step"]) for state in self._adam.state.values() if "step" in state]
        state: dict[int, dict[str, Any]] = {}
        if self.sharded_checkpoints:
            return {"state": state, "param_groups": self._groups()}
        self._link()
        for index, parameter in enumerate(self._trained()) if steps else ():
            moments = {key: self._keep(safe_get_full_optimizer_state(parameter, key)) for key in MOMENTS}
            state[index] = {"step": torch.tensor(steps[0]), **moments}
        return {"state": state, "param_groups": self._groups()} if self.is_global_zero else {}

    def _groups(self) -> list[dict[str, Any]]:
        """Return AdamW's options by group, with its parameters by number."""
        groups: list[dict[str, Any]] = []
        first = 0
        for options, group in zip(self._adam.param_groups, parameter_groups(self._task, self._task.optim), strict=True):
            members = group["params"]
            assert isinstance(members, list)
            kept = {key: value for key, value in options.items() if key != "params"}
            groups.append({**kept, "params": list(range(first, first + len(members)))})
            first += len(members)
        return groups

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write one file, by rank zero; or the engine's folder, by all."""
        if self.sharded_checkpoints:
            names = {id(parameter): name for name, parameter in self._task.named_parameters()}
            engine = {
                "names": [names[id(parameter)] for parameter in self._trained()],
                "groups": checkpoint["optimizer_states"][0]["param_groups"],
                "keys": [key for key in checkpoint if key not in ("state_dict", "optimizer_states")],
            }
            super().save_checkpoint({**checkpoint, "zero": engine}, filepath, storage_options)
            return
        DDPStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ANN401
        """Read one file, on every rank."""
        return DDPStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill the weights, whole ones or, after a fit under stage 3, sharded ones."""
        import deepspeed

        if not any(hasattr(parameter, "ds_id") for parameter in self._task.parameters()):
            self._task.load_state_dict(checkpoint["state_dict"], strict=strict)
            return
        own = self._task.state_dict(keep_vars=True) | dict(self._task.named_parameters(remove_duplicate=False))
        for name, value in own.items():
            with deepspeed.zero.GatheredParameters([value] if isinstance(value, nn.Parameter) else [], modifier_rank=0):
                if self.is_global_zero or not hasattr(value, "ds_id"):
                    value.data.copy_(checkpoint["state_dict"][name])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard the moments and the float32 weights of a checkpoint over the ranks."""
        saved = checkpoint["optimizer_states"][0]
        for group, options in zip(self._adam.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in options.items() if key != "params"})
        steps = [state["step"] for state in saved["state"].values()]
        if not steps:
            return
        for flat in self._partitions():
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self._adam.state[flat] = {"step": torch.tensor(float(max(steps))), **moments}
        self._link()
        names = {id(parameter): name for name, parameter in self._task.named_parameters()}
        for index, parameter in enumerate(self._trained()):
            self._set(parameter, checkpoint["state_dict"][names[id(parameter)]], None)
            for key, moment in saved["state"].get(index, {}).items():
                if key in MOMENTS:
                    self._set(parameter, moment, key)

    @property
    def _task(self) -> VisionLanguageTask:
        assert isinstance(self.lightning_module, VisionLanguageTask)
        return self.lightning_module

    @property
    def _adam(self) -> Optimizer:
        """The AdamW inside, over the flat partitions of this rank."""
        adam = self.deepspeed_engine.optimizer.optimizer
        assert isinstance(adam, Optimizer)
        return adam

    def _outside(self) -> list[nn.Parameter]:
        """Return the weights outside of the transformer layers."""
        layers = {id(p) for part in self._task.model.layers().values() for layer in part for p in layer.parameters()}
        return [parameter for parameter in self._task.parameters() if id(parameter) not in layers]

    def _link(self) -> None:
        """Link each parameter to its moments: DeepSpeed does so within its first step, for its first group alone."""
        zero = self.deepspeed_engine.optimizer
        if not self.zero_stage_3 and self._adam.state:
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _partitions(self) -> list[Tensor]:
        zero = self.deepspeed_engine.optimizer
        flat: list[Tensor] = (
            zero.fp32_partitioned_groups_flat if self.zero_stage_3 else zero.single_partition_of_fp32_groups
        )
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

    def _keep(self, value: Tensor) -> Tensor:
        """Keep a gathered tensor in the memory of the host, on the rank that writes."""
        return value.detach().to("cpu", copy=True) if self.is_global_zero else value.new_empty(0)

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        value = value.to(self.root_device, torch.float32)
        if key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)


class ZeroPrecision(DeepSpeedPrecision):
    """DeepSpeed's precision with autocast: under bf16 the weights and the matrix products are, norms and losses not."""

    def convert_input(self, data: Any) -> Any:  # noqa: ANN401
        """Leave batches as they are: boxes and targets stay float32."""
        return data

    def forward_context(self) -> AbstractContextManager[None]:
        """Let autocast choose what runs in float32."""
        if self.precision == "32-true":
            return nullcontext()
        device = "cuda" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu" else "cpu"
        return torch.autocast(device, self._desired_dtype)

    def backward(  # type: ignore[override]  # as the parent does
        self,
        tensor: Tensor,
        model: L.LightningModule,
        optimizer: Steppable | None,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Run the engine's backward; a step that is to be skipped gets a gradient that the engine refuses."""
        strategy = model.trainer.strategy
        assert isinstance(strategy, ZeroStrategy)
        super().backward(tensor * strategy.backward_factor(), model, optimizer, *args, **kwargs)
