"""A training step on tensors without values: the host asks the device for no number, for that would make it wait.

Fake tensors raise where it asks. Forward runs on what seems to be a GPU. Backward of such ones needs a driver, so the
whole step, with backward, clipping and the optimiser, runs on fake tensors of the CPU.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.factories import CLASSES, CODES, pretrain_batch
from vle_lightning.batch import PretrainBatch
from vle_lightning.fakes import fake_batch, make_fake
from vle_lightning.objectives.base import ObjectiveOutput
from vle_lightning.objectives.itm import ImageTextMatching
from vle_lightning.optim import OptimConfig, make_optimizer
from vle_lightning.streams import Fused
from vle_lightning.tasks.pretrain import PretrainTask

RECIPES = {
    "VLE": ("tiny", ("mlm", "itm", "mpc", "pbc")),
    "METER": ("tiny", ("mlm", "itm", "mim_codes", "mim_contrast")),
    "VLMo": ("vlmo-tiny", ("itc", "itm_hard", "mlm")),
}
GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
GENERATOR = torch.Generator()
MATCHING = ImageTextMatching.forward


@contextmanager
def without_values(recipe: str, device: torch.device) -> Iterator[tuple[PretrainTask, PretrainBatch]]:
    """Make a task and a batch of fake tensors on a device; tied weights stay tied."""
    architecture, names = RECIPES[recipe]
    task = PretrainTask(architecture, dict.fromkeys(names, 1.0), classes=CLASSES, codes=CODES).train()
    batch = pretrain_batch()
    # a generator of a GPU needs one, and fake tensors know of none; what would be drawn has no values here anyway
    generator = patch.object(torch, "Generator", lambda *_: GENERATOR)
    drawing = patch.object(Tensor, "exponential_", lambda self, generator: self)
    with FakeTensorMode(), device, generator, drawing, patch.object(task, "log"):
        make_fake(task)
        yield task, fake_batch(batch)


@pytest.mark.parametrize("recipe", ["VLE", "METER"])  # contrast takes gradients as it goes, which needs a driver
def test_forward_on_a_gpu_does_not_wait_for_it(recipe: str) -> None:
    with without_values(recipe, GPU) as (task, batch):
        for number in range(2):  # what a step before left behind is there in the second
            object.__setattr__(batch, "step", number)
            assert task.training_step(batch).device == GPU


def take_whole_steps(*recipes: str) -> None:
    for recipe in recipes:
        with without_values(recipe, CPU) as (task, batch):
            optimizer, schedule = make_optimizer(task, OptimConfig(), 10)
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = task.training_step(batch)
                loss.backward()
                nn.utils.clip_grad_norm_(task.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()


@pytest.mark.slow
def test_whole_steps_ask_for_no_number() -> None:
    # in a process of its own: where fake tensors went backward, autograd has threads, and no later test could fork
    process = multiprocessing.get_context("spawn").Process(target=take_whole_steps, args=tuple(RECIPES))
    process.start()
    process.join()
    assert process.exitcode == 0


def asking(ask: Callable[[Tensor], object]) -> Callable[..., ObjectiveOutput]:
    """Return ITM that asks the host something of its loss."""

    def forward(itm: ImageTextMatching, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        output = MATCHING(itm, fused, batch)
        ask(output.loss)
        return output

    return forward


@pytest.mark.parametrize("ask", [Tensor.item, bool], ids=["item", "if"])
@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_an_objective_that_asks_for_a_number_is_found(device: torch.device, ask: Callable[[Tensor], object]) -> None:
    with (
        patch.object(ImageTextMatching, "forward", asking(ask)),
        without_values("VLE", device) as (task, batch),
        pytest.raises(DataDependentOutputException),
    ):
        task.training_step(batch)
