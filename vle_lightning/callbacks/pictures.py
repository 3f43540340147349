"""What the model makes of a few samples and of a whole split, drawn at validation, after a test and in predictions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.image import imread
from torch import Tensor

from vle_lightning.batch import Batch, ImageTextBatch, PretrainBatch
from vle_lightning.callbacks.recorder import RunLogger
from vle_lightning.distributed import has_met, of_first_rank
from vle_lightning.strategies.base import SpreadsWeights
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.pictures import Names, Picture

BatchT = TypeVar("BatchT", bound=Batch)
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")  # in a file's name
DPI = 100


@runtime_checkable
class DrawsSplits(Protocol):
    """A task with something to draw of a whole split."""

    def split_pictures(self, stage: Stage) -> Iterable[Picture]:
        """Draw what the scores of a split say; called once they are logged."""


class Pictures(Callback):
    """Asks the task for drawings of the first validation batch and of whole splits; TensorBoard and PNG files get them.

    Every rank draws rank zero's samples and rank zero writes: of a model that is spread over the ranks each has a part,
    and all must call it equally often.
    """

    def __init__(self, folder: Path, names: Callable[[], Names]) -> None:
        """Draw into a run folder.

        Args:
            folder: gets ``pictures/<title>.png``, of the latest validation, and ``pictures/<split>_<title>.png``.
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
        self._write(trainer, draw(trainer, partial(task.pictures, shared(batch), self.names())))

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw what the scores of the validation split say."""
        self._draw_split(trainer, task, Stage.VAL)

    def on_test_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw what the scores of the test split say."""
        self._draw_split(trainer, task, Stage.TEST)

    def _draw_split(self, trainer: L.Trainer, task: L.LightningModule, stage: Stage) -> None:
        if trainer.sanity_checking or not isinstance(task, DrawsSplits):
            return
        drawn = draw(trainer, partial(task.split_pictures, stage))
        self._write(trainer, [Picture(f"{stage.value}_{title}", figure) for title, figure in drawn])

    def _write(self, trainer: L.Trainer, pictures: list[Picture]) -> None:
        if not trainer.is_global_zero:
            return
        for picture in pictures:
            file = self.folder / f"{picture.title}.png"
            png = render(picture)
            try:
                save(png, file)
            except OSError as error:  # a full disk ends no run
                file.unlink(missing_ok=True)
                rank_zero_warn(f"{file} cannot be written: {error}")
            pixels = imread(BytesIO(png))
            for logger in trainer.loggers:
                step = max(trainer.global_step - 1, 0)
                if isinstance(logger, RunLogger):
                    logger.log_picture(picture.title, pixels, step)
                elif isinstance(logger, TensorBoardLogger):  # the experiment's own
                    logger.experiment.add_image(picture.title, pixels, step, dataformats="HWC")


class Plots(Callback):
    """``predict --plots FOLDER``: a PNG for each of the first samples that are predicted.

    Over several ranks these are the samples of the first one; the others draw along, as above.
    """

    def __init__(self, folder: Path, count: int, names: Callable[[], Names]) -> None:
        """Draw into a folder.

        Args:
            folder: gets ``<title>_<number>_<id of the sample>.png``.
            count: how many samples to draw.
            names: how tokens and classes read; asked for once the data is set up.
        """
        self.folder, self.count, self.names = folder, count, names
        self._drawn = self._written = 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the batch's samples, as far as there are fewer than asked for."""
        assert isinstance(task, VisionLanguageTask)
        if self._drawn == self.count:
            return
        for part in samples(shared(batch)):
            if self._drawn == self.count:
                return
            self._drawn += 1
            pictures = draw(trainer, partial(task.pictures, part, self.names()))
            if trainer.is_global_zero and bool(part.valid.any()):
                self._written += bool(pictures)
                name = f"{self._drawn:04}_{UNSAFE.sub('-', part.sample_ids[0])}"
                for picture in pictures:
                    save(render(picture), self.folder / f"{picture.title}_{name}.png")

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what was drawn."""
        if trainer.is_global_zero:
            print(f"{self.folder} has the pictures of {self._written} samples")


def shared(batch: BatchT) -> BatchT:
    """Return rank zero's batch, on every rank's own device."""
    return of_first_rank(batch.to("cpu")).to(batch.valid.device) if has_met() else batch


def draw(trainer: L.Trainer, make: Callable[[], Iterable[Picture]]) -> list[Picture]:
    """Draw without gradients, at the precision of the run."""
    spread = trainer.strategy
    whole = spread.whole() if isinstance(spread, SpreadsWeights) else nullcontext()
    with torch.no_grad(), trainer.precision_plugin.forward_context(), whole:
        return list(make())


def render(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG file: laying a figure out takes longer than all else about it."""
    png = BytesIO()
    picture.figure.savefig(png, dpi=DPI, bbox_inches="tight")
    return png.getvalue()


def save(png: bytes, file: Path) -> None:
    """Write a PNG file; its folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png)


def samples(batch: BatchT) -> Iterator[BatchT]:
    """Take a batch apart into its rows; one whose images and texts are searched for each other stays whole."""
    if not isinstance(batch, ImageTextBatch):
        yield batch
        return
    for row in range(len(batch)):
        parts: dict[str, Any] = {
            field.name: value[row : row + 1]
            for field in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, field.name), Tensor | tuple) and field.name != "skipped"
        }
        if isinstance(batch, PretrainBatch):
            parts["partner"] = torch.zeros_like(parts["partner"])  # its own text: another row's is not there
        yield dataclasses.replace(batch, **parts)
