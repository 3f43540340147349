"""Slow training, so that a test can interrupt it."""

from __future__ import annotations

import time

import lightning as L
from lightning.pytorch.callbacks import Callback

from vle_lightning.batch import Batch


class Slow(Callback):
    """Waits before each micro-batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Wait."""
        time.sleep(self.seconds)
