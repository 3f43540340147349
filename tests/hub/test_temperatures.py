"""Temperatures of contrast were single numbers: what holds them so still loads, and a run goes on with its moments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.factories import run_checkpoint, with_single_numbers
from vle_lightning.hub.folder import SAFETENSORS
from vle_lightning.hub.vlmo import FILE
from vle_lightning.optim import make_optimizer
from vle_lightning.resuming import check_checkpoint
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.retrieval import RetrievalTask

Make = Callable[..., VisionLanguageTask]
MAKERS: dict[str, Make] = {
    "pretrain": lambda **more: PretrainTask("vlmo-tiny", objectives={"itc": 1.0, "itm_hard": 1.0}, **more),
    "dual stream": lambda **more: PretrainTask("tiny", objectives={"itc": 1.0}, **more),
    "dual_retrieval": lambda **more: DualRetrievalTask("vlmo-tiny", **more),
    "retrieval": lambda **more: RetrievalTask("tiny", contrastive=1.0, **more),
}
TEMPERATURES = {"pretrain": 2, "dual stream": 1, "dual_retrieval": 1, "retrieval": 1}
STAYS, MOVED = 3.25, 0.5  # a temperature and its moments, unlike those of a new task


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def temperatures(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.endswith("log_scale")}


def trained(kind: str) -> VisionLanguageTask:
    task = MAKERS[kind]()
    for value in temperatures(task.state_dict()).values():
        value.fill_(STAYS)
    return task


def assert_read(task: VisionLanguageTask, kind: str) -> None:
    found = list(temperatures(task.state_dict()).values())
    assert len(found) == TEMPERATURES[kind]
    assert all(torch.equal(value, torch.tensor([STAYS])) for value in found)


def test_no_parameter_is_a_single_number(kind: str) -> None:
    assert all(parameter.dim() > 0 for parameter in MAKERS[kind]().parameters())  # which no strategy could slice


def test_a_checkpoint_of_earlier_versions_is_a_start(kind: str, tmp_path: Path) -> None:
    task = trained(kind)
    content = with_single_numbers(run_checkpoint(task))
    task.on_save_checkpoint(content)
    torch.save(content, tmp_path / "best.ckpt")
    for source in (tmp_path, tmp_path / "best.ckpt"):
        assert_read(MAKERS[kind](init=str(source)), kind)
    assert_read(type(task).from_pretrained(tmp_path), kind)


def test_an_export_of_earlier_versions_is_read(kind: str, tmp_path: Path) -> None:
    task = trained(kind)
    task.save_pretrained(tmp_path)
    weights = load_file(tmp_path / SAFETENSORS)
    single = {name: value.reshape(()) for name, value in temperatures(weights).items()}
    save_file(weights | single, tmp_path / SAFETENSORS, metadata={"format": "pt"})
    assert_read(MAKERS[kind](init=str(tmp_path)), kind)
    assert_read(type(task).from_pretrained(tmp_path), kind)


@pytest.mark.parametrize("kind", ["pretrain", "dual_retrieval"], indirect=True)
def test_vlmos_layout_has_single_numbers(kind: str, tmp_path: Path) -> None:
    task = trained(kind)
    task.save_pretrained(tmp_path, layout="vlmo")
    stored: dict[str, Tensor] = torch.load(tmp_path / FILE, weights_only=True)["state_dict"]
    found = [value for name, value in stored.items() if name in ("logit_scale", "logit_vl_scale")]
    assert [value.shape for value in found] == [()] * TEMPERATURES[kind]
    assert_read(MAKERS[kind](init=str(tmp_path)), kind)


def test_a_run_of_earlier_versions_goes_on_with_its_moments(kind: str, tmp_path: Path) -> None:
    content = run_checkpoint(trained(kind))
    for state in content["optimizer_states"][0]["state"].values():
        state["exp_avg"] = state["exp_avg"] * MOVED
    torch.save(with_single_numbers(content), tmp_path / "last.ckpt")
    task = MAKERS[kind]()
    assert check_checkpoint(str(tmp_path / "last.ckpt"), task) == 3
    read = torch.load(tmp_path / "last.ckpt", weights_only=True)
    task.on_load_checkpoint(read)  # as Lightning does before it restores weights and optimiser
    task.load_state_dict(read["state_dict"])
    assert_read(task, kind)
    optimizer, _ = make_optimizer(task, task.optim, 10)
    optimizer.load_state_dict(read["optimizer_states"][0])
    single = [part for name, part in task.named_parameters() if name.endswith("log_scale")]
    for parameter in single:
        state = optimizer.state[parameter]
        assert torch.equal(state["exp_avg"], torch.full((1,), MOVED))
        assert torch.equal(state["exp_avg_sq"], torch.ones(1))
        assert state["step"].item() == 3
        parameter.grad = torch.ones(1)
    optimizer.step()
    beta = task.optim.betas[0]
    for parameter in single:
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], torch.tensor([beta * MOVED + 1 - beta]))


def test_broken_states_are_left_to_those_who_tell(tmp_path: Path) -> None:
    task = trained("dual_retrieval")
    for broken in ([3], [{"state": 3}], [{"state": {0: 3}}]):
        checkpoint = {"state_dict": task.state_dict(), "optimizer_states": copy.deepcopy(broken)}
        task.on_load_checkpoint(checkpoint)
        assert checkpoint["optimizer_states"] == broken
