"""The progress bar, and one line of scores for each validation."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from torch import Tensor

from vle_lightning.batch import Batch


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
