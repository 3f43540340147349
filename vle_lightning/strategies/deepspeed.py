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

from vle_lightning.strategies.zero_states import ZeroStates
from vle_lightning.tasks.base import VisionLanguageTask


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
        self.config["train_micro_batch_size_per_gpu"] = 1  # for its log; else a loader is asked
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
            # layers read the weights of their linear layers themselves (vle_lightning/projection.py); DeepSpeed finds
            # that out in training steps alone, and a picture may need a layer that no objective reads
            for module, linear in self._linear_layers():
                for parameter in linear.parameters(recurse=False):
                    deepspeed.zero.register_external_parameter(module, parameter)

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
        return {} if self.sharded_checkpoints else dict(self._states.weights(keep=self.is_global_zero))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather AdamW's state on rank zero, as one process would save it; its options alone likewise."""
        if self.sharded_checkpoints:
            return {"state": {}, "param_groups": self._states.groups()}
        return self._states.moments(keep=self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write one file, by rank zero; or the engine's folder, by all.

        Raises:
            OSError: a part of the folder could not be written.
        """
        if not self.sharded_checkpoints:
            DDPStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)
            return
        states = self._states
        zero = {
            "names": states.names(),
            "step": max(states.steps(), default=0.0),
            "groups": states.groups(),
            "keys": [key for key in checkpoint if key not in ("state_dict", "optimizer_states")],
        }
        with _failures(self.deepspeed_engine.checkpoint_engine) as failures:
            super().save_checkpoint({**checkpoint, "zero": zero}, filepath, storage_options)
        if failures:
            raise OSError(failures[0])

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
        """Spread the moments and the float32 weights of a checkpoint over the ranks."""
        self._states.load(checkpoint)

    @property
    def _task(self) -> VisionLanguageTask:
        assert isinstance(self.lightning_module, VisionLanguageTask)
        return self.lightning_module

    @property
    def _states(self) -> ZeroStates:
        assert isinstance(self.config, dict)
        return ZeroStates(self._task, self.deepspeed_engine, self.config["zero_optimization"]["stage"])

    def _linear_layers(self) -> Iterator[tuple[nn.Module, nn.Linear]]:
        """Yield each linear layer of the transformer layers after the module that holds it."""
        for layer in (layer for part in self._task.model.layers().values() for layer in part):
            for module in layer.modules():
                yield from ((module, child) for child in module.children() if isinstance(child, nn.Linear))

    def _outside(self) -> list[nn.Parameter]:
        """Return the weights outside of the transformer layers."""
        layers = {id(p) for part in self._task.model.layers().values() for layer in part for p in layer.parameters()}
        return [parameter for parameter in self._task.parameters() if id(parameter) not in layers]


@contextmanager
def _failures(writer: Any) -> Iterator[list[str]]:  # noqa: ANN401 (DeepSpeed is untyped)
    """Collect what a checkpoint engine cannot write: were it raised, the other ranks would wait for this one."""
    failures: list[str] = []
    save = writer.save

    def careful(*args: object, **kwargs: object) -> None:
        try:
            save(*args, **kwargs)
        except (OSError, RuntimeError) as error:
            failures.append(f"a part cannot be written: {error}")

    writer.save = careful
    try:
        yield failures
    finally:
        del writer.save  # the class's own again


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
        """Run the engine's backward; a step that is to be skipped gets a gradient that the engine refuses.

        Lightning has divided the loss by the number of micro-batches; the engine would do so once more, and gradients,
        their norm and what is clipped of them would be too small.
        """
        strategy = model.trainer.strategy
        assert isinstance(strategy, ZeroStrategy)
        loss = tensor * strategy.backward_factor()
        super().backward(loss, model, optimizer, *args, scale_wrt_gas=False, **kwargs)
