"""How fast a run is, what it waits for, and how large its gradients are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from vle_lightning.batch import Batch


class Throughput(Callback):
    """Logs samples/s of all devices, the share of time spent waiting for data, what was read, the gradient norm.

    Speeds are averages since they were logged last; the norm is that before clipping.
    """

    def __init__(self, samples_by_source: Callable[[int], Mapping[str, int]]) -> None:
        """Take what tells the samples of each source in the first so many steps of the run."""
        self._samples_by_source = samples_by_source
        self._began = self._idle_since = 0.0
        self._waited = 0.0  # seconds
        self._samples = 0
        self._interval = 1  # steps

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start the clock."""
        self._interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start the clock again: validation is not training."""
        self._restart()

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        """The batch is here: the wait is over."""
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: torch.Tensor | Mapping[str, object] | None,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log the speed at every step that is logged at all."""
        self._samples += len(batch)
        self._idle_since = now = time.perf_counter()
        boundary = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if boundary and trainer.global_step % self._interval == 0:
            seconds = max(now - self._began, 1e-9)
            rate = self._samples * trainer.world_size / seconds
            task.log("samples/s", rate, prog_bar=True, logger=False)
            self._log(trainer, {"speed/samples_per_second": rate, "speed/data_wait_share": self._waited / seconds})
            seen = self._samples_by_source(trainer.global_step)
            self._log(trainer, {f"samples/{source}": float(count) for source, count in seen.items()})
            self._restart()

    def on_before_optimizer_step(self, trainer: L.Trainer, task: L.LightningModule, optimizer: Optimizer) -> None:
        """Log the norm of all gradients, before they are clipped."""
        if (trainer.global_step + 1) % self._interval == 0:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._log(trainer, {"speed/gradient_norm": float(torch.nn.utils.get_total_norm(gradients))}, ahead=1)

    def _restart(self) -> None:
        self._began = self._idle_since = time.perf_counter()
        self._waited, self._samples = 0.0, 0

    @staticmethod
    def _log(trainer: L.Trainer, values: dict[str, float], ahead: int = 0) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step + ahead)
