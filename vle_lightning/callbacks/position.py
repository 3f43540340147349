"""Where in its epoch a run resumes, on other numbers of devices and micro-batches than it stopped on."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

KEY = "micro_batches_per_step"  # of one device


class EpochPosition(Callback):
    """Counts Lightning's progress in this run's micro-batches: it counts those of a device, not steps.

    Without it a run that goes on with half as many micro-batches a step would end its epoch too early.
    """

    def on_save_checkpoint(self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note how many micro-batches of a device make a step."""
        checkpoint[KEY] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Recount; the loops read the checkpoint after the callbacks."""
        before, now = checkpoint.get(KEY, trainer.accumulate_grad_batches), trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            for name, count in counts.items():
                counts[name] = recount(count, before, now)


def recount(count: int, before: int, now: int) -> int:
    """Return how many micro-batches of the new size a count of the old ones is.

    A checkpoint is of whole steps, but its last micro-batch may not count as completed yet.
    """
    steps = -(-count // before)
    return steps * now - (steps * before - count)
