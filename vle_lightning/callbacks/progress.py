"""The progress bar, and one line of scores for each validation."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


class Progress(RichProgressBar):
    """A Rich bar with loss and samples/s; the scores of each validation stay above it, and in log files."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)

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
        scores = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        line = f"step {trainer.global_step}  " + "  ".join(f"{k} {v:.3f}" for k, v in sorted(scores.items()))
        console = self.progress.live.console if self.progress else Console()
        console.print(line, highlight=False, soft_wrap=True)
