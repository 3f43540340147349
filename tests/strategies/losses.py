"""A callback for real runs: writes down the loss of every micro-batch, of every rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from vle_lightning.batch import PretrainBatch
from vle_lightning.tasks.pretrain import PretrainTask


class LossRecord(Callback):
    """Appends a line for each training micro-batch to ``<folder>/<rank>.jsonl``."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write the loss as this rank has computed it, before any sum over ranks."""
        assert isinstance(task, PretrainTask)
        assert isinstance(batch, PretrainBatch)
        assert task.own_loss is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        row = {
            "step": batch.step,
            "number": batch.number,
            "loss": task.own_loss.item(),
            "boxes": int(batch.box_valid.sum()),
        }
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_losses(folder: Path) -> dict[tuple[int, int], float]:
    """Return the loss of each step and micro-batch of all ranks."""
    return {(row["step"], row["number"]): row["loss"] for row in _rows(folder)}


def without_boxes(folder: Path) -> int:
    """Count the micro-batches that have no box at all."""
    return sum(row["boxes"] == 0 for row in _rows(folder))


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
