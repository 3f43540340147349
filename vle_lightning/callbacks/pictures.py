"""What the model makes of a few validation samples, drawn at each validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from vle_lightning.batch import Batch
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.pictures import Names, Picture


class Pictures(Callback):
    """Asks the task for drawings of the first validation batch; they go to TensorBoard and to PNG files.

    Every rank draws and rank zero writes, so that a model that is spread over the ranks draws as well.
    """

    def __init__(self, folder: Path, names: Callable[[], Names]) -> None:
        """Draw into a run folder.

        Args:
            folder: gets ``pictures/<title>.png``, of the latest validation.
            names: how tokens and classes read; asked for once the data is set up.
        """
        self.folder, self.names = folder / "pictures", names

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx or trainer.sanity_checking or not isinstance(task, VisionLanguageTask):
            return
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            pictures = list(task.pictures(batch, self.names()))
        if trainer.is_global_zero:
            self._write(trainer, pictures)

    def _write(self, trainer: L.Trainer, pictures: list[Picture]) -> None:
        for picture in pictures:
            self.folder.mkdir(parents=True, exist_ok=True)
            picture.figure.savefig(self.folder / f"{picture.title}.png", dpi=100)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(picture.title, picture.figure, trainer.global_step)
