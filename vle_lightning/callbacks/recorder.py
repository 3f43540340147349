"""The record of a run: config.yaml, metrics.json, run.json and predictions.json in its folder."""

from __future__ import annotations

import platform
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from jsonargparse import Namespace
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import BasePredictionWriter, Callback
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch.utils.tensorboard.summary import hparams

from vle_lightning.distributed import gather_objects
from vle_lightning.files import write_json, write_text

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "transformers",
    "open_clip_torch",
    "webdataset",
    "torchmetrics",
    "omegaconf",
    "jsonargparse",
    "sentencepiece",
    "deepspeed",
    "numpy",
    "pillow",
)


class RunLogger(TensorBoardLogger):
    """TensorBoard events in the run folder itself; config.yaml holds the options, and no hparams.yaml beside it.

    A run that goes on hides what an earlier start has logged of later steps: the curves show each step once.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        """Log into a run folder.

        Args:
            folder: of the run.
            resumed_step: that it goes on from: so many were taken, and logged from 0 on.
        """
        later: dict[str, Any] = {} if resumed_step is None else {"purge_step": resumed_step}
        super().__init__(folder, name="", version="", default_hp_metric=False, **later)
        self._session: tuple[object, ...] = ()  # summaries of the options, of the start and of the end
        self._ended = False  # by a disk that is full: the training is worth more than its curves
        threading.excepthook = partial(_hush, threading.excepthook)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers."""
        with self._writing():
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_picture(self, title: str, pixels: np.ndarray, step: int) -> None:
        """Log a picture (H, W, C), uint8 or floats in [0, 1]."""
        with self._writing():
            self.experiment.add_image(f"pictures/{title}", pixels, step, dataformats="HWC")

    @rank_zero_only
    def log_text(self, title: str, markdown: str, step: int) -> None:
        """Log a text in Markdown."""
        with self._writing():
            self.experiment.add_text(title, markdown, step)

    @rank_zero_only
    def log_layout(self, layout: dict[str, dict[str, tuple[str, list[str]]]]) -> None:
        """Log the charts of the tab Custom Scalars: tags by category and title, as `add_custom_scalars` takes them."""
        with self._writing():
            self.experiment.add_custom_scalars(layout)

    @rank_zero_only
    def start_session(self, options: Mapping[str, bool | int | float | str], scores: Sequence[str]) -> None:
        """Log the options of a run and the names of its scores for the tab HParams."""
        self._session = hparams(dict(options), dict.fromkeys(scores, 0.0))
        self._log_summaries(self._session[:2])

    @rank_zero_only
    def end_session(self) -> None:
        """Mark the run as finished in the tab HParams."""
        self._log_summaries(self._session[2:])

    def _log_summaries(self, summaries: Sequence[object]) -> None:
        with self._writing():
            for summary in summaries:
                self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def save(self) -> None:
        """Write out what is buffered."""
        with self._writing():
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write out and close."""
        with self._writing():
            super().finalize(status)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """End the curves, and not the run, where the events cannot be written."""
        try:
            yield
        except (OSError, ValueError) as error:
            fault = error if isinstance(error, OSError) else error.__cause__  # as Lightning's logger wraps it
            if not isinstance(fault, OSError):
                raise
            if not self._ended:
                rank_zero_warn(f"{self.log_dir}: TensorBoard's curves end here, they cannot be written: {fault}")
            self._ended = True


def _hush(others: Callable[[threading.ExceptHookArgs], object], args: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's own thread: the logger tells of its error."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
        others(args)


class ConfigRecord(SaveConfigCallback):
    """Writes the merged options of a fit to ``config.yaml``; other commands leave that of the fit alone."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:  # noqa: ANN401
        """Keep the options that a rerun needs: not where this fit resumed, nor what follows from others."""
        kept = config.clone()
        kept.ckpt_path = None
        kept.trainer.pop("accumulate_grad_batches")
        super().__init__(parser, kept, **options)

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Write the file."""
        if stage == "fit":
            super().setup(trainer, task, stage)


class FinalValidation(Callback):
    """Validates after the very last step: Lightning stops at ``max_steps`` without looking."""

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Ask the loop to stop, which makes it validate first."""
        if 0 <= trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True


class RunClock(Callback):
    """Counts the seconds of a fit over all its resumes."""

    def __init__(self) -> None:
        self._carried = 0.0
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return how long the fit has taken."""
        return self._carried + time.perf_counter() - self._began

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start."""
        self._began = time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        """Return the seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue."""
        self._carried = state_dict["seconds"]


Rows = Sequence[Mapping[str, object]]


class PredictionWriter(BasePredictionWriter):
    """Writes the rows of ``predict_step`` of all ranks to ``predictions.json``, ordered by id, each sample once.

    Beside it lie the files that the task's leaderboard asks for.
    """

    def __init__(self, folder: Path, official_files: Callable[[Rows], Mapping[str, str]] = lambda _: {}) -> None:
        """Write into a run folder.

        Args:
            folder: of the run.
            official_files: makes name and content of further files from all rows.
        """
        super().__init__(write_interval="epoch")
        self.file, self.official_files = folder / "predictions.json", official_files

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[object] | None,
    ) -> None:
        """Gather and write."""
        rows: list[dict[str, Any]] = [row for batch in predictions for row in batch]
        gathered: list[dict[str, Any]] = [row for part in gather_objects(rows) for row in part]
        gathered.sort(key=lambda row: str(row["id"]))
        official = self.official_files(gathered)  # on all ranks: what is wrong with the rows ends all of them
        if trainer.is_global_zero:
            write_json(self.file, gathered)
            for name, content in official.items():
                write_text(self.file.with_name(name), content)


def is_first_process() -> bool:
    """Is this rank zero, judged by the environment, before ranks have met?"""
    return (_get_rank() or 0) == 0


def versions() -> dict[str, str]:
    """Return the version of Python and of each library that results may depend on."""
    installed = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{k: v for k, v in installed.items() if v is not None}}


def git_state() -> dict[str, object]:
    """Return the commit of this code and whether files differ from it; both null outside of a repository."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "modified": None if changes is None else bool(changes)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
