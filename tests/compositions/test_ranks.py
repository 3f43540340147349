"""Real processes: two ranks equal one process in every composition; one of each axis under FSDP2 and ZeRO-3."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from tests.compositions.recipes import ALL, Composition
from tests.factories import CLASSES, pretrain_batch
from tests.slurm.cluster import free_ports
from tests.strategies.losses import read_losses
from tests.strategies.runs import SMALL, fit
from vle_lightning.optim import make_optimizer
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask

STEPS, MICRO_BATCHES = 2, 4
PATIENCE = 120  # seconds


class Step(torch.nn.Module):
    """What DDP wraps: the loss of micro-batch k of a step; number k is on rank k mod W, and draws by its own number."""

    def __init__(self, task: PretrainTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, step: int, number: int) -> Tensor:
        torch.manual_seed(100 * step + number)
        batch = pretrain_batch(rows=2, seed=100 * step + number)
        if number == 1:  # boxes of none: MPC has nothing to judge on this rank
            batch = replace(batch, hidden_classes=torch.full_like(batch.hidden_classes, -1))
        return self.task.step(batch, Stage.VAL)


def train(composition: Composition, rank: int, ranks: int) -> dict[str, Tensor]:
    """Train two steps of four micro-batches; return the weights, and the gradients of the last step."""
    torch.manual_seed(0)
    task = PretrainTask(composition.plain(), classes=CLASSES).train()
    optimizer, schedule = make_optimizer(task, task.optim, 10)
    wrapped = Step(task)
    run = wrapped if ranks == 1 else DistributedDataParallel(wrapped)
    for step in range(STEPS):
        optimizer.zero_grad()
        own = range(rank, MICRO_BATCHES, ranks)
        for number in own:
            (run(step, number) / len(own)).backward()
        optimizer.step()
        schedule.step()  # the first rate is 0
    gradients = {f"gradient of {name}": p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {name: tensor.detach().clone() for name, tensor in (task.state_dict() | gradients).items()}


def as_rank(rank: int, port: int, compositions: Sequence[Composition], folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for composition in compositions:
        weights = train(composition, rank, 2)
        if rank == 0:
            torch.save(weights, Path(folder) / f"{composition}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")  # imports once, and no thread of the tests comes along
    context.set_forkserver_preload(["tests.compositions.test_ranks"])
    port = free_ports(1)[0]
    ranks = [context.Process(target=as_rank, args=(n, port, ALL, str(tmp_path))) for n in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE)
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    for composition in ALL:
        together = torch.load(tmp_path / f"{composition}.pt", weights_only=True)
        for name, weight in train(composition, 0, 1).items():
            torch.testing.assert_close(together[name], weight, rtol=1e-3, atol=2e-5, msg=f"{composition}: {name}")


SPREAD = (  # each kind that the strategies' own tests do not have
    Composition("bert", "swin", "merged", "decoder"),
    Composition("roberta", "siglip", "co", "decoder"),
    Composition("modernbert", "swin", "merged", "encoder"),
)


@pytest.fixture(scope="module")
def place(workplace: Path) -> Iterator[Path]:
    settings = {**SMALL, "validate_every": 2, "trainer": {**SMALL["trainer"], "max_steps": 2}}  # type: ignore[dict-item]
    (workplace / "strategies.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        yield workplace


@pytest.mark.slow
@pytest.mark.parametrize("composition", SPREAD, ids=str)
def test_weights_that_are_spread_have_the_losses_of_one_process(composition: Composition, place: Path) -> None:
    mean, std = composition.build().pixels
    options = [
        *("--model.architecture", yaml.safe_dump(composition.plain(), default_flow_style=True).strip()),
        *("--data.pixel_mean", str(list(mean)), "--data.pixel_std", str(list(std))),
    ]
    expected = read_losses(fit(f"{composition}-alone", "auto", 1, *options) / "losses")
    assert len(expected) == 2 * MICRO_BATCHES
    for strategy in ("fsdp", "deepspeed_3"):
        folder = fit(f"{composition}-{strategy}", strategy, 2, *options)
        assert read_losses(folder / "losses") == pytest.approx(expected, rel=1e-4), strategy
