"""The tasks: every parameter learns, each overfits eight samples, two ranks' micro-batches equal one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import get_linear_schedule_with_warmup

from tests.factories import ANSWER_NAMES, ANSWERS, CLASSES, dual, pretrain_batch, vcr_batch, vqa_batch
from vle_lightning.batch import Batch
from vle_lightning.errors import UserError
from vle_lightning.objectives.base import Hiding
from vle_lightning.objectives.passes import fuse_views
from vle_lightning.optim import OptimConfig, make_optimizer, parameter_groups, schedule_factor
from vle_lightning.streams import FusedView, ImageView, TextView
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

Case = tuple[Callable[..., VisionLanguageTask], Callable[..., Batch], str]
CASES: dict[str, Case] = {
    "pretrain": (lambda **o: PretrainTask("tiny", classes=CLASSES, **o), pretrain_batch, "itm_accuracy"),
    "vqa": (lambda **o: VQATask("tiny", answers=ANSWERS, **o), vqa_batch, "vqa_accuracy"),
    "q2a": (lambda **o: VCRTask("tiny", mode="q2a", families=["colour"], **o), vcr_batch, "q2a"),
    "qa2r": (lambda **o: VCRTask("tiny", mode="qa2r", families=["colour"], **o), vcr_batch, "qa2r"),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def build(case: Case, **options: str) -> VisionLanguageTask:
    torch.manual_seed(0)
    task = case[0](**options)
    task.labels = ANSWER_NAMES if isinstance(task, VQATask) else None
    return task


@pytest.fixture(autouse=True)
def without_trainer() -> Iterator[None]:
    with patch.object(VisionLanguageTask, "log"):
        yield


@cases
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    task = build(case)
    task.step(case[1](), Stage.TRAIN).backward()
    without = [name for name, parameter in task.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.slow
@cases
def test_a_task_overfits_eight_samples(case: Case) -> None:
    task = build(case)
    batch = case[1](rows=8)
    optimizer, schedule = make_optimizer(task, OptimConfig(lr=3e-3, fusion_multiplier=1, head_multiplier=1), 150)
    first = float(task.step(batch, Stage.TRAIN).detach())
    for _ in range(150):
        optimizer.zero_grad()
        loss = task.step(batch, Stage.TRAIN)
        loss.backward()
        optimizer.step()
        schedule.step()
    task.eval()
    with torch.no_grad():
        last = float(task.step(batch, Stage.VAL))
    scores = task.split_scores(Stage.VAL)
    share = scores[case[2]] if scores else task.get_submodule(f"_scores.val.{case[2]}").compute()  # type: ignore[operator]
    assert share > 0.99
    assert last < 0.5 * first


@cases
def test_dropout_is_a_function_of_the_micro_batch_not_of_what_ran_before(case: Case) -> None:
    task = build(case)
    for module in task.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.3  # type: ignore[assignment]
    task.train()
    batch = case[1]()
    first = task.training_step(batch)
    torch.rand(17)
    assert task.training_step(batch).item() == first.item()
    assert task.training_step(replace(batch, number=1)).item() != first.item()


@cases
def test_a_loss_that_is_not_finite_is_told_and_kept_apart_from_what_is_shown(case: Case) -> None:
    task = build(case)
    batch = case[1]()
    broken = replace(batch, pixel_values=batch.pixel_values * float("nan"))  # type: ignore[call-arg, attr-defined]
    with patch.object(task, "log") as log:
        losses = [task.training_step(one) for one in (batch, broken)]
    assert torch.isfinite(losses[0])
    assert torch.isnan(losses[1])
    assert task.own_loss is not None
    assert torch.isnan(task.own_loss)
    shown = [float(call.args[1]) for call in log.call_args_list if call.args[0] == "train/loss"]
    assert shown == [losses[0].item()] * 2


@pytest.mark.parametrize("name", ["vqa", "q2a", "qa2r"])
def test_a_blind_task_trains_without_the_image(name: str) -> None:
    task = build(CASES[name], blind="image")
    batch = CASES[name][1]()
    with patch.object(task.model.image, "forward", side_effect=AssertionError("the image tower ran")):
        loss = task.step(batch, Stage.TRAIN)
    loss.backward()
    other = replace(batch, pixel_values=torch.randn_like(batch.pixel_values))  # type: ignore[call-arg, attr-defined]
    assert task.step(other, Stage.TRAIN).item() == loss.item()


def test_pretraining_refuses_to_be_blind_to_what_its_objectives_need() -> None:
    with pytest.raises(UserError, match="only the objective mlm"):
        PretrainTask("tiny", blind="image")


@pytest.mark.parametrize("hiding", ["vector", "pixels"])
def test_one_pass_may_serve_mlm_and_mpc(hiding: Hiding) -> None:
    torch.manual_seed(0)
    apart = PretrainTask("tiny", classes=CLASSES, hiding=hiding).eval()
    joint = PretrainTask("tiny", classes=CLASSES, hiding=hiding, passes="joint").eval()
    joint.load_state_dict(apart.state_dict())
    batch = pretrain_batch()
    fusion_module = dual(joint.model).fusion
    with patch.object(fusion_module, "forward", wraps=fusion_module.forward) as fusion:
        ours = joint.judge(batch)
    rows = [len(call.args[0].states) for call in fusion.call_args_list]
    assert rows == [4, 4]  # MLM and MPC, then ITM and PBC; a third pass is saved
    view = FusedView(TextView.MASKED, ImageView.MASKED)
    (mpc,) = (objective for objective in apart._objectives() if objective.name == "mpc")
    (both,) = fuse_views(apart.model, batch, [view], mpc.vectors())
    theirs = apart.judge(batch)
    for objective in apart._objectives():
        expected = objective(both, batch) if objective.name in ("mlm", "mpc") else theirs[objective.name]
        torch.testing.assert_close(ours[objective.name].loss, expected.loss)
    assert not torch.equal(ours["mlm"].loss, theirs["mlm"].loss)


def test_a_joint_pass_is_that_of_both_objectives_only() -> None:
    task = PretrainTask("tiny", {"mlm": 1.0, "itm": 1.0}, passes="joint")
    assert task.views["mlm"] == FusedView(text=TextView.MASKED)


def test_weights_multiply_the_losses() -> None:
    batch = pretrain_batch()
    torch.manual_seed(0)
    task = PretrainTask("tiny", objectives={"mlm": 0.5, "itm": 2.0}, classes=CLASSES).eval()
    outputs = task.judge(batch)
    expected = 0.5 * outputs["mlm"].loss + 2.0 * outputs["itm"].loss
    torch.testing.assert_close(task.step(batch, Stage.TRAIN), expected)


def test_the_image_is_encoded_once_for_all_four_choices() -> None:
    task = VCRTask("tiny").eval()
    batch = vcr_batch(rows=3)
    encoder = dual(task.model).image
    with patch.object(encoder, "forward", wraps=encoder.forward) as image:
        logits = task(batch)
    assert logits.shape == (3, 4)
    assert image.call_count == 1
    assert len(image.call_args.args[0]) == 3


def test_choices_do_not_influence_each_other() -> None:
    task = VCRTask("tiny").eval()
    batch = vcr_batch(rows=2)
    order = torch.tensor([2, 0, 3, 1])
    fields = ("input_ids", "attention_mask", "token_types", "regions", "region_valid", "region_types")
    shuffled = replace(batch, **{name: getattr(batch, name)[:, order] for name in fields})
    torch.testing.assert_close(task(shuffled), task(batch)[:, order])


def test_the_region_of_a_tag_matters() -> None:
    task = VCRTask("tiny").eval()
    batch = vcr_batch(rows=2)
    moved = replace(batch, regions=batch.regions.flip(0))
    assert not torch.allclose(task(moved), task(batch))


def test_towers_fusion_and_heads_learn_at_their_own_rates() -> None:
    task = VQATask("tiny", answers=ANSWERS)
    config = OptimConfig(lr=1.0, fusion_multiplier=5.0, head_multiplier=50.0, weight_decay=0.01)
    groups = {str(group["name"]): group for group in parameter_groups(task, config)}
    assert {name: group["lr"] for name, group in groups.items() if "no_decay" not in name} == {
        "tower": 1.0,
        "fusion": 5.0,
        "head": 50.0,
    }
    assert {group["weight_decay"] for name, group in groups.items() if "no_decay" in name} == {0.0}
    sizes = [parameter.numel() for group in groups.values() for parameter in group["params"]]  # type: ignore[attr-defined]
    assert sum(sizes) == sum(parameter.numel() for parameter in task.parameters())


def test_a_rate_that_is_not_given_leaves_the_groups_of_earlier_checkpoints() -> None:
    task = PretrainTask("tiny", classes=CLASSES)
    groups = parameter_groups(task, OptimConfig())
    assert [group["name"] for group in groups] == [
        f"{part}{decay}" for part in ("tower", "fusion", "head") for decay in ("", "_no_decay")
    ]


@settings(max_examples=50)
@given(steps=st.integers(1, 300), warmup=st.floats(0.0, 1.0))
def test_the_schedule_is_that_of_transformers(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = get_linear_schedule_with_warmup(optimizer, round(steps * warmup), steps).lr_lambdas[0]
    rates = [schedule_factor(step, steps, warmup) for step in range(steps)]
    assert rates == pytest.approx([expected(step) for step in range(steps)])


def test_the_rate_rises_over_the_warm_up_and_falls_to_the_end() -> None:
    rates = [schedule_factor(step, 100, 0.1, end=0.1) for step in range(101)]
    assert rates[:3] == pytest.approx([0.0, 0.1, 0.2])
    assert [step for step, rate in enumerate(rates) if rate == 1.0] == [10]
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
