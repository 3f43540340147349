"""bf16 with float32 master weights: what computes in bf16, and what stays in float32."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from tests.factories import CLASSES, pretrain_batch
from tests.strategies.losses import read_losses
from tests.strategies.runs import MICRO_BATCHES, STEPS, fit, run, second_halves
from vle_lightning.cli import main
from vle_lightning.optim import OptimConfig, make_optimizer
from vle_lightning.performance import checkpoint_activations, compile_layers
from vle_lightning.strategies.bf16 import MasterWeightPrecision
from vle_lightning.tasks.pretrain import PretrainTask

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")


def make_task(architecture: str = "tiny") -> PretrainTask:
    torch.manual_seed(0)
    names = ("itc", "itm_hard", "mlm") if architecture.startswith("vlmo") else ("mlm", "itm", "mpc", "pbc")
    return PretrainTask(architecture, dict.fromkeys(names, 1.0), classes=CLASSES).train()


def precision_of(task: PretrainTask) -> MasterWeightPrecision:
    precision = MasterWeightPrecision()
    assert precision.convert_module(task) is task
    return precision


def loss_of(task: PretrainTask) -> Tensor:
    torch.manual_seed(1)
    return torch.stack([output.loss for output in task.judge(pretrain_batch()).values()]).sum()


def gradients(task: PretrainTask, precision: MixedPrecision | None) -> dict[str, Tensor]:
    task.zero_grad()
    with nullcontext() if precision is None else precision.forward_context():
        loss = loss_of(task)
    if precision is None:
        loss.backward()
    else:
        precision.backward(loss, task, None)
    return {name: weight.grad.clone() for name, weight in task.named_parameters() if weight.grad is not None}


def copy_count(precision: MasterWeightPrecision) -> int:
    return sum(len(layer._copies) for layer in precision._layers)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the norm of the difference as a share of that of ``other``."""
    assert one.keys() == other.keys()
    squares = sum((one[name] - other[name]).double().square().sum() for name in one)
    return float((squares / sum(gradient.double().square().sum() for gradient in other.values())) ** 0.5)


@pytest.mark.parametrize("architecture", ["tiny", "vlmo-tiny"])
def test_gradients_are_those_of_bf16_mixed_in_float32(architecture: str) -> None:
    task = make_task(architecture)
    exact, mixed = gradients(task, None), gradients(task, MixedPrecision("bf16-mixed", "cpu"))
    own = gradients(task, precision_of(task))
    assert all(gradient.dtype == torch.float32 for gradient in own.values())
    assert distance(own, mixed) < 1e-2  # gradients of weights that are used twice are added in bf16 here
    assert 1e-4 < distance(own, exact) < 1.5 * distance(mixed, exact)


def test_layers_compute_with_copies_that_end_with_the_step() -> None:
    task = make_task()
    before = dict(task.named_parameters())
    layer = task.model.layers()["fusion"][0]
    linear = next(module for module in layer.modules() if isinstance(module, nn.Linear))
    norm = next(module for module in layer.modules() if isinstance(module, nn.LayerNorm))
    precision, weight = precision_of(task), linear.weight
    with precision.forward_context():
        copy = linear.weight
        assert copy.dtype == torch.bfloat16
        torch.testing.assert_close(copy.float(), weight, rtol=2**-8, atol=0)
        assert norm.weight.dtype == torch.float32
        with precision.forward_context():  # as ranking does at the end of an epoch
            assert linear.weight is copy
        assert linear.weight is copy
    assert linear.weight is weight
    with pytest.raises(ZeroDivisionError), precision.forward_context():
        raise ZeroDivisionError
    assert copy_count(precision) == 0
    with precision.forward_context():
        loss = loss_of(task)
    assert copy_count(precision) > 0
    precision.backward(loss, task, None)
    assert copy_count(precision) == 0
    with torch.no_grad(), precision.forward_context():
        loss_of(task)
    assert copy_count(precision) == 0
    assert {name: id(weight) for name, weight in task.named_parameters()} == {k: id(v) for k, v in before.items()}


def test_steps_below_the_resolution_of_bf16_add_up() -> None:
    # a weight that is bf16 itself stays where it is under steps below 1/512 of its size
    task = make_task()
    precision = precision_of(task)
    layer = task.model.layers()["fusion"][0]
    weight = next(module.weight for module in layer.modules() if isinstance(module, nn.Linear))
    before = weight.detach().clone()
    optimizer, _ = make_optimizer(task, OptimConfig(lr=1e-7, fusion_multiplier=1.0, weight_decay=0.0, warmup=0.0), 1000)
    for _ in range(3):
        gradients(task, precision)
        optimizer.step()
    steps = (weight - before).abs()
    assert 2e-7 < steps.median() <= steps.max() < 4e-7  # AdamW's first steps are as long as the learning rate


def test_frozen_weights_get_no_gradient() -> None:
    task = make_task()
    layer = task.model.layers()["text"][0].requires_grad_(False)
    gradients(task, precision_of(task))
    assert all(weight.grad is None for weight in layer.parameters())


@pytest.mark.parametrize("parts", [["text", "image", "fusion"], ["cheap"]])
def test_recomputed_layers_have_the_same_gradients(parts: list[str]) -> None:
    plain, saving = make_task(), make_task()
    checkpoint_activations(saving.model, parts)
    expected, actual = gradients(plain, precision_of(plain)), gradients(saving, precision_of(saving))
    assert distance(actual, expected) < 1e-6


@needs_compiler
@pytest.mark.slow
def test_compiled_layers_have_the_same_gradients_up_to_rounding() -> None:
    plain, compiled = make_task(), make_task()
    compile_layers(compiled.model)
    expected, actual = gradients(plain, precision_of(plain)), gradients(compiled, precision_of(compiled))
    assert distance(actual, expected) < 1e-2
    assert distance(gradients(compiled, None), gradients(plain, None)) < 1e-5  # another compilation, in float32


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_2"])
def test_strategies_with_master_weights_of_their_own_say_so(
    strategy: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    options = ("--model.init", "null", "--trainer.precision", "bf16-true", "--trainer.strategy", strategy)
    assert main(["fit", "--config", str(EXPERIMENTS / "pretrain" / "toy.yaml"), *options]) == 2
    assert f"trainer.precision is bf16-true under {strategy}; choose 32-true, 32, bf16-mixed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_workplace")
def test_two_ranks_and_a_run_in_float32_go_on_alike(alone: Path) -> None:
    half = ("--trainer.precision", "bf16-true")
    one, two = fit("half", "auto", 1, *half), fit("half_2", "ddp", 2, *half)
    expected, actual = (read_losses(folder / "losses") for folder in (one, two))
    assert len(expected) == STEPS * MICRO_BATCHES
    assert actual == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(read_losses(alone / "losses"), rel=2e-2)
    saved = torch.load(one / "last.ckpt", weights_only=True)["state_dict"]
    assert {weight.dtype for weight in saved.values() if weight.is_floating_point()} == {torch.float32}
    actual, expected = second_halves(alone, "half_on", "auto", 1, alone, *half)  # of float32, in bf16
    assert actual == pytest.approx(expected, rel=2e-2)
    actual, expected = second_halves(one, "half_again", "auto", 1, one, *half)
    assert actual == expected


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_workplace")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_ranking_ends_with_the_scores_of_a_split(precision: str) -> None:
    experiment = str(EXPERIMENTS / "dual_retrieval" / "vlmo_toy.yaml")
    options = ("--model.architecture", "vlmo-tiny", "--model.init", "null", "--trainer.precision", precision)
    few = (
        "--trainer.max_steps",
        "2",
        "--validate_every",
        "2",
        "--data.batch_size",
        "4",
        "--data.global_batch_size",
        "8",
    )
    run("fit", "--config", experiment, "--run_name", precision, *options, *few, "--data.limit_val", "6")
    assert (Path("checkpoints") / precision / "predictions.json").stat().st_size > 100
