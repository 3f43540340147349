"""The progress bar, one line of scores for each validation, and a file that tells others how far a run is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor

from vle_lightning.batch import Batch
from vle_lightning.callbacks.steps import is_logged
from vle_lightning.callbacks.throughput import Throughput
from vle_lightning.files import write_json


class Progress(RichProgressBar):
    """A Rich bar over the optimiser steps of the whole run, with loss and samples/s.

    The scores of each validation stay above it, and appear in log files as well.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)

    @property
    def total_train_batches(self) -> int | float:
        """Return the optimiser steps of the run, in place of the batches of an epoch."""
        return self.trainer.estimated_stepping_batches

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Show the bar; a new epoch does not begin it anew."""
        if self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, task)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Tensor | Mapping[str, object] | None,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Move the bar to the step."""
        super().on_train_batch_end(trainer, task, outputs, batch, trainer.global_step - 1)

    def get_metrics(
        self, trainer: L.Trainer, task: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands beside the bar; validation scores have their own lines."""
        metrics = super().get_metrics(trainer, task)
        return {name: value for name, value in metrics.items() if not name.startswith(("val/", "v_num"))}

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Print the step and its validation scores."""
        super().on_validation_end(trainer, task)
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        scores = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
        line = f"step {trainer.global_step}  " + "  ".join(f"{k} {v:.3f}" for k, v in sorted(scores.items()))
        console = self.progress.live.console if self.progress else Console()
        console.print(line, highlight=False, soft_wrap=True)

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class ProgressFile(Callback):
    """Keeps ``progress.json``: step, steps of the run, samples/s of all devices, loss, time, devices.

    What is not known is null; a reader sees the whole file or the one before it.
    """

    def __init__(self, folder: Path, throughput: Throughput) -> None:
        """Write into a run folder.

        Args:
            folder: of the run.
            throughput: knows the speed; stands before this callback.
        """
        self.file, self._throughput = folder / "progress.json", throughput

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Write at every step that is logged at all."""
        if is_logged(trainer, batch_idx):
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write where the fit has ended."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        steps, loss = trainer.estimated_stepping_batches, trainer.callback_metrics.get("train/loss")
        content = {
            "step": trainer.global_step,
            "steps": int(steps) if math.isfinite(steps) else None,
            "samples_per_second": self._throughput.samples_per_second,
            "loss": None if loss is None or not math.isfinite(loss) else float(loss),
            "time": time.time(),
            "devices": trainer.world_size,
        }
        try:
            write_json(self.file, content, durable=False)
        except OSError as error:  # a full disk ends no run: the next write may find room
            rank_zero_warn(f"{self.file} cannot be written: {error}")
