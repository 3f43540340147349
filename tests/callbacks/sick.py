"""A task of six weights that falls ill at given samples, and runs of it on one rank or several."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from vle_lightning.batch import Batch, Skip
from vle_lightning.callbacks.health import Health
from vle_lightning.callbacks.skips import SkipReport
from vle_lightning.callbacks.watchdog import Watchdog
from vle_lightning.errors import UserError
from vle_lightning.optim import OptimConfig
from vle_lightning.strategies.build import make_strategy
from vle_lightning.tasks.base import Stage, VisionLanguageTask

ROWS = 2
PATIENCE, NAP = 60.0, 1.0  # seconds
CONFIG = OptimConfig(lr=0.1, head_multiplier=1.0, warmup=0.0, end=1.0)  # a constant rate


@dataclass(frozen=True, kw_only=True)
class Values(Batch):
    """B rows of three numbers."""

    values: Tensor  # (B, 3)


class SickTask(VisionLanguageTask):
    """Fits a linear layer to ones; the encoder is there, but stays as it is."""

    monitor: ClassVar[str] = "val/x"  # type: ignore[misc]

    def __init__(self, faults: Mapping[str, str]) -> None:
        """Fall ill at the samples that ``faults`` names: nan, steep, nap, sleep or stop."""
        super().__init__("tiny", "none", CONFIG, 0)
        self.model.requires_grad_(False)
        self.add_scores(())
        self.head = nn.Linear(3, 2)
        nn.init.constant_(self.head.weight, 0.5), nn.init.zeros_(self.head.bias)
        self.faults = dict(faults)

    def step(self, batch: Values, stage: Stage) -> Tensor:  # type: ignore[override]
        """Compute the squared error."""
        loss: Tensor = (self.head(batch.values) - 1).square().mean()
        for name in batch.sample_ids:
            match self.faults.get(name):
                case "nan":
                    loss = loss * torch.nan
                case "steep":  # adds nothing to the loss, and an infinite slope
                    weight = self.head.weight.sum()
                    loss = loss + (weight - weight.detach()).sqrt()
                case "nap":
                    time.sleep(NAP)
                case "sleep":
                    time.sleep(PATIENCE)
                case "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
        return loss


def make_batch(step: int, number: int, lost: int = 0) -> Values:
    """Make a micro-batch; its samples are called ``<step>.<number>.<row>``, and so many more could not be used."""
    random = torch.Generator().manual_seed(100 * step + number)
    return Values(
        sample_ids=tuple(f"{step}.{number}.{row}" for row in range(ROWS)),
        valid=torch.ones(ROWS, dtype=torch.bool),
        step=step,
        number=number,
        values=torch.randn(ROWS, 3, generator=random),
        skipped=(Skip("unreadable image", f"step {step}"),) * lost,
    )


class Diary(Callback):
    """Keeps weights, and AdamW's state where it is not sharded, after each step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Copy."""
        if trainer.global_step > len(self.states):
            weights = [whole(p).tolist() for p in task.parameters() if p.requires_grad]
            state: dict[str, Any] = {"weights": weights}
            if not isinstance(trainer.strategy, DeepSpeedStrategy | ModelParallelStrategy):
                parts = trainer.optimizers[0].state_dict()["state"].values()
                state["adam"] = [{key: value.tolist() for key, value in part.items()} for part in parts]
            self.states.append(state)


def whole(weight: Tensor) -> Tensor:
    """Gather a weight that FSDP2 may have sharded."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


class Run:
    """A fit of ``steps`` steps of four micro-batches; a rank may lose one sample of three."""

    def __init__(
        self,
        folder: Path,
        faults: Mapping[str, str],
        steps: int = 5,
        ranks: int = 1,
        timeout: float | None = None,
        strategy: str | Strategy = "auto",
        losing: int | None = None,
        more: Sequence[Callback] = (),
        **options: Any,  # noqa: ANN401 (the Trainer's)
    ) -> None:
        self.health, self.diary, self.task = Health(folder), Diary(), SickTask(faults)
        self.watchdog = [] if timeout is None else [Watchdog(folder, timeout)]
        self.skips = SkipReport(folder, limit=0.1, judged_after=1)
        self.steps, self.ranks, self.losing = steps, ranks, losing
        self.trainer = L.Trainer(
            default_root_dir=str(folder),
            accelerator="cpu",
            devices=ranks,
            strategy=strategy,
            accumulate_grad_batches=4 // ranks,
            max_epochs=1,
            gradient_clip_val=1.0,
            callbacks=[*self.watchdog, self.health, self.skips, *more, self.diary],
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"logger": False, **options},
        )

    def fit(self) -> None:
        """Train, and validate at the end."""
        rank = self.trainer.global_rank
        places = [(step, number) for step in range(self.steps) for number in range(rank, 4, self.ranks)]
        loaders = [make_batch(*place, lost=int(rank == self.losing)) for place in places], [make_batch(99, rank)]
        self.trainer.fit(self.task, *(DataLoader(batches, 1, collate_fn=itemgetter(0)) for batches in loaders))  # type: ignore[arg-type]


def work(rank: int, port: int, folder: Path, ranks: int, strategy: str, options: Mapping[str, Any]) -> None:
    """Be one rank of a run, and write how it went."""
    environment = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"stderr-{rank}").open("wb") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    spread = make_strategy(strategy, "cpu", "32-true", offload=False, timeout=PATIENCE)
    plugins = [spread.precision] if spread.precision else []
    run, error = Run(folder, ranks=ranks, strategy=spread.strategy, plugins=plugins, **options), ""
    try:
        run.fit()
    except UserError as raised:
        error = str(raised)
    outcome = {"error": error, "bad_steps": run.health.bad_steps, "states": run.diary.states}
    (folder / f"outcome-{rank}.json").write_text(json.dumps(outcome))


def start(folder: Path, ranks: int = 2, strategy: str = "ddp", **options: Any) -> list[BaseProcess]:  # noqa: ANN401
    """Start a run in processes of its own."""
    context = multiprocessing.get_context("forkserver")  # imports once, and no thread of the tests comes along
    context.set_forkserver_preload(["tests.callbacks.sick"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes: list[BaseProcess] = [
        context.Process(target=work, args=(rank, port, folder, ranks, strategy, options)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def outcomes(folder: Path, processes: Sequence[BaseProcess]) -> list[dict[str, Any]]:
    """Wait, and read how it went on each rank."""
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return [json.loads((folder / f"outcome-{rank}.json").read_text()) for rank in range(len(processes))]


def kill(process: BaseProcess) -> None:
    """End a process that may be stopped."""
    with suppress(ProcessLookupError):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
