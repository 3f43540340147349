"""What only a GPU can show; the rest of the tests need none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.feeding import Feeder, normalise_bytes
from datamodules.transforms import MEAN, STD, normalise
from tests.factories import CLASSES, PARTS, pretrain_batch
from tests.test_performance import deep_config, loss_of
from vle_lightning.gpu_check.runs import RunSettings, train
from vle_lightning.performance import checkpoint_activations, compile_layers
from vle_lightning.tasks.pretrain import PretrainTask

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


def make_task(dropout: float = 0.0, layers: int = 2) -> PretrainTask:
    torch.manual_seed(0)
    return PretrainTask(deep_config(layers, dropout), classes=CLASSES).train()


def step(task: PretrainTask, device: torch.device = CUDA, autocast: bool = False, tokens: int = 9) -> Tensor:
    """Run forward and backward; return the loss."""
    torch.manual_seed(0)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = loss_of(task, pretrain_batch(tokens=tokens).to(device))
    loss.backward()
    return loss.detach().cpu()


def test_a_step_in_bf16_is_finite_and_every_parameter_has_a_gradient() -> None:
    task = make_task(dropout=0.1).to(CUDA)
    assert torch.isfinite(step(task, autocast=True))
    gradients = {name: p.grad for name, p in task.named_parameters() if p.requires_grad}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())


def test_a_gpu_gives_the_loss_and_the_gradients_of_the_cpu() -> None:
    task = make_task()
    moved = copy.deepcopy(task).to(CUDA)
    torch.testing.assert_close(step(moved), step(task, torch.device("cpu")), rtol=1e-3, atol=0)
    for (name, parameter), other in zip(task.named_parameters(), moved.parameters(), strict=True):
        if parameter.grad is not None:
            assert other.grad is not None
            torch.testing.assert_close(other.grad.cpu(), parameter.grad, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_layers_give_the_losses_of_plain_ones_under_dropout(autocast: bool) -> None:
    torch._dynamo.reset()
    plain, compiled = make_task(0.1).to(CUDA), make_task(0.1).to(CUDA)
    compile_layers(compiled.model)
    for tokens in (9, 12, 15):
        expected = step(plain, autocast=autocast, tokens=tokens)
        found = step(compiled, autocast=autocast, tokens=tokens)
        torch.testing.assert_close(found, expected, rtol=2e-2 if autocast else 1e-4, atol=0)


def test_recomputing_gives_the_same_loss_for_less_memory() -> None:
    def peak(patch: Callable[[PretrainTask], None]) -> tuple[Tensor, int]:
        task = make_task(0.1, layers=12).to(CUDA)
        patch(task)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = step(task)
        return loss, torch.cuda.max_memory_allocated() - before

    expected, plain = peak(lambda task: None)
    loss, recomputed = peak(lambda task: checkpoint_activations(task.model, PARTS))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert recomputed < plain


def test_a_batch_of_bytes_arrives_beside_other_work_and_is_normalised_to_the_bit() -> None:
    batch = pretrain_batch()
    levels = torch.randint(0, 256, batch.pixel_values.shape, dtype=torch.uint8)
    sent = replace(batch, pixel_values=levels, drawn_pixel_values=levels[:0]).pin_memory()
    feeder, busy = Feeder(), torch.randn(2048, 2048, device=CUDA)
    for _ in range(8):
        busy = busy @ busy / 50
        arrived = normalise_bytes(feeder.move(sent, CUDA), MEAN, STD)
    assert torch.equal(arrived.pixel_values.cpu(), normalise(levels))
    assert torch.equal(arrived.input_ids.cpu(), batch.input_ids)


def test_the_command_line_trains_the_toy_experiment_on_a_gpu(toy_world: Path, tmp_path: Path) -> None:
    settings = RunSettings("cuda", "auto", 3, 8, "tiny", "bf16-mixed")
    losses = train(settings, toy_world, tmp_path)
    assert all(0 < loss < 100 for loss in losses)
