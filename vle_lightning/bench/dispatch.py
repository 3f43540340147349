"""How many operations a training step dispatches: what the host has to do for it, however fast the device is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vle_lightning.bench.pretraining import CLASSES, make_batch
from vle_lightning.bench.timing import Measurement
from vle_lightning.fakes import fake_batch, make_fake
from vle_lightning.optim import OptimConfig, make_optimizer
from vle_lightning.strategies.bf16 import MasterWeightPrecision
from vle_lightning.tasks.pretrain import PretrainTask

CLIP = 1.0
VIEWS = {"view", "slice", "select", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "split", "detach",
         "as_strided", "alias", "unbind", "diagonal", "_unsafe_view", "split_with_sizes", "chunk"}  # fmt: skip


class Counter(TorchDispatchMode):
    """Counts the operations that are dispatched, and apart those that compute, which views do not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all, self.computing = 0, 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Count one, and let it run; what fake tensors ask of themselves is none."""
        if func.namespace != "prim":
            self.all += 1
            self.computing += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(results: dict[str, float], phase: str) -> Iterator[None]:
    """Count what happens within as a phase."""
    with Counter() as counter:
        yield
    results[f"operations/{phase}"] = counter.all
    results[f"operations_computing/{phase}"] = counter.computing


def bench_dispatch(architecture: str, repeats: int) -> Measurement:
    """Count a step in bf16-mixed and in bf16-true on fake tensors, which have shapes and no values."""
    del repeats  # a count is exact
    mixed = count_step(architecture, MixedPrecision("bf16-mixed", "cpu"))
    masters = count_step(architecture, MasterWeightPrecision())
    return mixed | {f"bf16_true_{name}": count for name, count in masters.items()}


def count_step(architecture: str, precision: MixedPrecision) -> Measurement:
    """Count a step's operations by phase, all and those that compute."""
    with torch.device("meta"):
        task = PretrainTask(architecture, classes=CLASSES).train()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer is there to take it
    batch = make_batch(task.model.config.image_size, task.model.vocabulary)
    results: dict[str, float] = {}
    with FakeTensorMode(), torch.device("cpu"):
        make_fake(task)
        batch = fake_batch(batch)
        precision.convert_module(task)
        optimizer, _ = make_optimizer(task, OptimConfig(), 10)
        for _ in range(2):  # the first one makes the moments of the weights
            with counted(results, "forward"), precision.forward_context():
                loss = task.training_step(batch)
            with counted(results, "backward"):
                precision.backward(loss, task, None)
            with counted(results, "clip"):
                nn.utils.clip_grad_norm_(task.parameters(), CLIP, foreach=True)  # as it is on a GPU
            with counted(results, "optimiser"):
                optimizer.step()
            optimizer.zero_grad()
    for kind in ("operations", "operations_computing"):
        results[f"{kind}/step"] = sum(count for name, count in results.items() if name.startswith(f"{kind}/"))
    return results
