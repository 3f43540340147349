"""The life of a run: its folder, what watches it, and the record at its end."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden

from vle_lightning.callbacks.pictures import Pictures
from vle_lightning.callbacks.progress import Progress
from vle_lightning.callbacks.recorder import FinalValidation, PredictionWriter, RunClock, git_state, versions, write_json
from vle_lightning.callbacks.skips import SkipReport
from vle_lightning.callbacks.throughput import Throughput
from vle_lightning.errors import UserError
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.pictures import Names


class RunFolder:
    """``checkpoints/<run name>/`` and what lies in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best, self.last = path / "best.ckpt", path / "last.ckpt"
        self.metrics, self.record = path / "metrics.json", path / "run.json"

    def holds(self, path: Path) -> bool:
        """Is ``path`` this folder or in it?"""
        return path.resolve().is_relative_to(self.path.resolve())

    def set_aside(self) -> None:
        """Rename the folder of an earlier run, to the first free ``<name>.<number>``: no run is ever overwritten."""
        if not any((self.path / name).exists() for name in ("config.yaml", "best.ckpt", "last.ckpt", "metrics.json")):
            return
        number = 1
        while (older := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(older)
        print(f"{self.path} holds an earlier run; it is now {older}")


def choose_checkpoint(command: str, given: str | None, folder: RunFolder) -> str | None:
    """Return the checkpoint file that a command starts from.

    Args:
        command: fit starts afresh unless told; validate, test and predict take the best checkpoint of the run.
        given: ``--ckpt_path``: a file, ``last`` or ``best`` of the run's folder, or None.
        folder: of the run.

    Raises:
        UserError: there is no such file.
    """
    if given is None and command == "fit":
        return None
    file = {None: folder.best, "best": folder.best, "last": folder.last}.get(given, Path(given or ""))
    if not file.exists():
        what = "to resume from" if command == "fit" else f"to {command}"
        raise UserError(
            f"--ckpt_path: there is no checkpoint {file} {what}; run `python -m vle_lightning fit` with this "
            "experiment first, or name another file"
        )
    return str(file)


@runtime_checkable
class Readable(Protocol):
    """A data module that can say what its numbers mean."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of token ids."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the box classes."""


def make_callbacks(
    folder: RunFolder, task: L.LightningModule, datamodule: L.LightningDataModule, settings: Namespace
) -> list[Callback]:
    """Make everything that watches a run; checkpoints come last, so that they hold what the others counted."""
    callbacks: list[Callback] = [
        Throughput(),
        SkipReport(folder.path, settings.max_skipped),
        FinalValidation(),
        RunClock(),
        PredictionWriter(folder.path),
    ]
    if isinstance(datamodule, Readable):
        callbacks.append(Pictures(folder.path, lambda: Names(datamodule.decode, datamodule.class_names)))
    if settings.trainer.enable_progress_bar is not False:
        callbacks.append(Progress())
    if settings.trainer.logger is not False:
        callbacks.append(LearningRateMonitor("step"))
    if settings.trainer.enable_checkpointing is not False and isinstance(task, VisionLanguageTask):
        callbacks += make_checkpoints(folder, task, settings.save_every)
    return callbacks


def make_checkpoints(folder: RunFolder, task: VisionLanguageTask, save_every: int | None) -> list[Callback]:
    """Keep the best validated state and, apart, the last one; Lightning's own ``save_last`` skips what is not best."""
    best = ModelCheckpoint(
        folder.path,
        "best",
        monitor=task.monitor,
        mode=task.monitor_mode,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )
    last = [ModelCheckpoint(folder.path, "last", save_on_train_epoch_end=False, enable_version_counter=False)]
    if save_every:
        last.append(
            ModelCheckpoint(folder.path, "last", every_n_train_steps=save_every, enable_version_counter=False)
        )
    return [best, *last]


def finish_fit(
    trainer: L.Trainer,
    task: L.LightningModule,
    datamodule: L.LightningDataModule,
    folder: RunFolder,
    settings: Namespace,
) -> None:
    """Validate the selected checkpoint once more and write predictions.json, metrics.json and run.json.

    Args:
        trainer: after its fit.
        task: what was trained.
        datamodule: of the fit.
        folder: of the run.
        settings: all options.
    """
    if trainer.fast_dev_run:
        return
    record = _describe(trainer, task, datamodule, settings)
    rule, file = _select(trainer, task, folder)
    trainer.loggers = []  # the selected state was logged when it was young
    scores = trainer.validate(task, datamodule=datamodule, ckpt_path=file, verbose=False, weights_only=True)
    if is_overridden("predict_step", task):
        trainer.predict(task, datamodule=datamodule, ckpt_path=file, return_predictions=False, weights_only=True)
    if not trainer.is_global_zero:
        return
    metrics = {name: float(value) for part in scores for name, value in part.items()}
    metrics |= datamodule.references()
    write_json(folder.record, record | {"checkpoint": file.name, "rule": rule})
    write_json(folder.metrics, dict(sorted(metrics.items())))
    print(f"{file} ({rule})")
    print_scores(folder.metrics)


def print_scores(file: Path) -> None:
    """Print a metrics.json, one number a line."""
    print(f"{file}:")
    for name, value in json.loads(file.read_text()).items():
        print(f"  {name:<40} {value:.4f}")


def _select(trainer: L.Trainer, task: L.LightningModule, folder: RunFolder) -> tuple[str, Path]:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return f"{callback.mode} {callback.monitor}", Path(callback.best_model_path)
    trainer.save_checkpoint(folder.last)
    return "the last step, for there was no validation", folder.last


def _describe(
    trainer: L.Trainer, task: L.LightningModule, datamodule: L.LightningDataModule, settings: Namespace
) -> dict[str, object]:
    callbacks: Mapping[type[Callback], Callback] = {type(callback): callback for callback in trainer.callbacks}
    clock, skips = callbacks[RunClock], callbacks[SkipReport]
    assert isinstance(clock, RunClock)
    assert isinstance(skips, SkipReport)
    return {
        "run_name": settings.run_name,
        "task": settings.task,
        "command": shlex.join(["python", "-m", "vle_lightning", *sys.argv[1:]]),
        **git_state(),
        "versions": versions(),
        "seed": settings.seed_everything,
        "init": getattr(task, "load_report", None),
        "steps": trainer.global_step,
        "samples_seen": trainer.global_step * settings.data.global_batch_size - skips.counts.total(),
        "skipped": dict(skips.counts),
        "seconds": round(clock.seconds, 1),
        "devices": trainer.num_nodes * trainer.num_devices,
        "precision": str(settings.trainer.precision),
        "data": datamodule.manifests(),
    }
