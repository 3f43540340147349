"""FSDP2 (``fully_shard``; PyTorch FSDP, arXiv 2304.11277): every rank holds a slice of all weights and states."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from vle_lightning.hub.temperatures import renew_temperatures
from vle_lightning.optim import fuse_saved, parameter_groups
from vle_lightning.tasks.base import VisionLanguageTask

ENTRIES = (  # what the trainer and the callbacks call: the root's weights are whole while one of these runs
    "training_step",
    "validation_step",
    "test_step",
    "predict_step",
    "split_scores",
    "pictures",
    "split_pictures",
)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks, on GPUs and on CPUs, one group a transformer layer and one for everything else."""

    def __init__(self, timeout: timedelta, sharded_checkpoints: bool = False) -> None:
        """Choose how checkpoints are written.

        Args:
            timeout: of a collective.
            sharded_checkpoints: a folder with a file of each rank instead of one file.
        """
        super().__init__(save_distributed_checkpoint=sharded_checkpoints, timeout=timeout)
        self.sharded_checkpoints = sharded_checkpoints

    def setup_environment(self) -> None:
        """Join the ranks; all of them hold different samples and different slices."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the task, then make its optimiser; the parent would ask the task itself to do so."""
        assert self.accelerator is not None
        task, fitting = self.lightning_module, trainer.state.fn == TrainerFn.FITTING
        assert isinstance(task, VisionLanguageTask)
        self.accelerator.setup(trainer)
        self.model_to_device()
        if not isinstance(task, FSDPModule):  # a validation after a fit finds it sharded
            half = isinstance(self.precision_plugin, MixedPrecision) and self.root_device.type == "cuda"
            shard(task, self.device_mesh["data_parallel"], torch.bfloat16 if half else None)
        self.barrier()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a part of the folder on each rank.

        Raises:
            OSError: what torch calls a RuntimeError where the disk is full.
        """
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except RuntimeError as error:
            raise OSError(f"{filepath} cannot be written: {str(error).splitlines()[0]}") from error

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ANN401
        """Read one file on every rank, and keep of weights and moments what is this rank's.

        The parent numbers parameters as the module lists them; files number them as the optimiser does.
        """
        checkpoint: dict[str, Any] = torch.load(
            self.broadcast(checkpoint_path), map_location="cpu", mmap=True, weights_only=weights_only
        )
        fuse_saved(checkpoint)
        renew_temperatures(checkpoint)  # here, for the task's own hook comes after the weights were set
        task, options = self.lightning_module, StateDictOptions(full_state_dict=True)
        assert isinstance(task, VisionLanguageTask)
        set_model_state_dict(task, checkpoint.pop("state_dict"), options=options)
        options = StateDictOptions(full_state_dict=True, strict=False)  # weights that no loss reads have no moments
        for optimizer, saved in zip(self.optimizers, checkpoint.pop("optimizer_states", []), strict=False):
            if saved["state"]:
                set_optimizer_state_dict(task, optimizer, by_name(saved, task), options=options)
        return checkpoint


def by_name(saved: dict[str, Any], task: VisionLanguageTask) -> dict[str, Any]:
    """Rename the entries of an optimiser's state from numbers to the names of parameters."""
    places = {id(parameter): name for name, parameter in task.named_parameters()}
    groups = parameter_groups(task, task.optim)
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    named = [places[id(parameter)] for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    names = dict(zip(numbers, named, strict=True))
    return {
        "state": {names[number]: state for number, state in saved["state"].items()},
        "param_groups": [
            {**group, "params": [names[number] for number in group["params"]]} for group in saved["param_groups"]
        ],
    }


def shard(task: VisionLanguageTask, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Shard each transformer layer on its own and all other weights of the task together.

    Args:
        task: on its device; keeps its class's methods and its parameters' names.
        mesh: of the ranks, one-dimensional.
        dtype: that layers are gathered in; gradients are reduced in float32. That of the weights by default.
    """
    # inputs stay as they are: autocast chooses what runs in float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layers in task.model.layers().values():
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(task, mesh=mesh, mp_policy=policy)
    for name in ENTRIES:
        if hasattr(task, name):
            register_fsdp_forward_method(task, name)
