"""The life of a run: its folder, what watches it, and the record at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from transformers import PreTrainedTokenizerBase

from vle_lightning.callbacks.checkpoints import Checkpoints
from vle_lightning.callbacks.dashboard import Dashboard
from vle_lightning.callbacks.health import Health
from vle_lightning.callbacks.heartbeat import Phase
from vle_lightning.callbacks.interruption import Interruption
from vle_lightning.callbacks.pictures import Pictures, Plots
from vle_lightning.callbacks.position import EpochPosition
from vle_lightning.callbacks.progress import Progress, ProgressFile
from vle_lightning.callbacks.recorder import (
    FinalValidation,
    PredictionWriter,
    RunClock,
    git_state,
    versions,
)
from vle_lightning.callbacks.skips import Kind, SkipReport, lost_samples
from vle_lightning.callbacks.throughput import Throughput
from vle_lightning.callbacks.watchdog import Watchdog
from vle_lightning.checkpointing.store import CheckpointStore
from vle_lightning.checkpointing.whole import as_file
from vle_lightning.errors import UserError
from vle_lightning.files import read_object, write_json
from vle_lightning.run_folder import RunFolder
from vle_lightning.run_lock import RunLock
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.pictures import Names


class Recorded(Protocol):
    """What a run asks of its data module, beside Lightning's own hooks."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""

    def references(self) -> dict[str, float]:
        """Return ceilings and floors of the data."""

    def manifests(self) -> list[dict[str, str]]:
        """Return path and SHA-256 of each manifest that was read."""

    def samples_by_source(self, steps: int) -> dict[str, int]:
        """Return how many samples of each source the first ``steps`` steps take."""


@runtime_checkable
class Classed(Protocol):
    """A data module whose boxes have classes."""

    @property
    def class_names(self) -> list[str]:
        """Return the name of each class."""


class Run:
    """One command on one run folder."""

    def __init__(self, folder: RunFolder, settings: Namespace, arguments: Sequence[str]) -> None:
        """Prepare the record.

        Args:
            folder: of the run.
            settings: all options, merged.
            arguments: the command line.
        """
        self.folder, self.settings, self.arguments = folder, settings, arguments
        self.lock = RunLock(folder.path)
        self.resumed_step: int | None = None
        self.clock = RunClock()
        self.skips = SkipReport(folder.path, settings.max_skipped)
        self.watchdog = Watchdog(folder.path, settings.hang_timeout)
        self.health = Health(folder.path, settings.max_bad_steps)
        store = CheckpointStore(folder.path, settings.keep_last)
        saving = partial(self.watchdog.during, Phase.SAVING)
        self.checkpoints = Checkpoints(
            store, settings.save_every, settings.validate_every, saving, self.skips.usable_share
        )
        self.interruption = Interruption(None if settings.trainer.enable_checkpointing is False else self.checkpoints)

    def callbacks(self, task: VisionLanguageTask, datamodule: Recorded) -> list[Callback]:
        """Make all that watches a run; checkpoints come last, so that they hold what the others counted."""
        trainer = self.settings.trainer
        names = partial(names_of, datamodule)
        throughput = Throughput(datamodule.samples_by_source, self.health)
        callbacks = [
            self.watchdog,
            self.health,
            throughput,
            self.skips,
            ProgressFile(self.folder.path, throughput),
            FinalValidation(),
            EpochPosition(),
            self.clock,
        ]
        settings = self.settings.as_dict()
        callbacks.append(Dashboard(self.folder.config, settings, self._command(), datamodule.references))
        callbacks.append(Pictures(self.folder.path, names))
        if folder := self.settings.get("plots"):
            callbacks.append(Plots(Path(folder), self.settings.plots_count, names))
        callbacks.append(PredictionWriter(self.folder.path, task.official_files))
        if trainer.enable_progress_bar is not False:
            callbacks.append(Progress())
        if trainer.logger is not False:
            callbacks.append(LearningRateMonitor("step"))
        callbacks.append(self.interruption)
        if trainer.enable_checkpointing is not False:
            callbacks.append(self.checkpoints)
        return callbacks

    def finish(self, trainer: L.Trainer, task: VisionLanguageTask, datamodule: Recorded) -> None:
        """Validate the selected checkpoint once more, test it; write predictions.json, run.json and metrics.json.

        Args:
            trainer: after its fit.
            task: what was trained.
            datamodule: of the fit; Lightning's, too.

        Raises:
            UserError: nothing was learnt or saved, or the last step could not be saved: the record, which is written
                all the same, is of an earlier one.
        """
        assert isinstance(datamodule, L.LightningDataModule)
        trained = trainer.global_step
        if trained == 0:
            raise UserError(
                "no step was taken, so that there is nothing to select: look at trainer.max_steps, trainer.max_epochs, "
                "trainer.max_time and trainer.limit_train_batches"
            )
        if 0 < trained <= self.health.bad_steps:
            raise UserError(
                f"nothing was learnt: none of the {trained} steps had a finite loss and gradient; {self.health.file} "
                "lists them. Lower model.optim.lr, or look at these samples"
            )
        if self.checkpoints.owes_validation(trainer):  # of the last step: the fit had nothing left to do
            last = str(as_file(self.folder.last, trainer.is_global_zero))
            trainer.validate(task, None, last, verbose=False, datamodule=datamodule, weights_only=True)
            self.checkpoints.judge(trainer, task)
        name, rule = self.checkpoints.selected(trainer)
        record = self._describe(trainer, task, datamodule, self.checkpoints.saved_step(trainer))
        chosen = self.folder.path / name
        file = as_file(chosen, trainer.is_global_zero)
        trainer.loggers = []  # the selected state was logged when it was young
        scores = trainer.validate(task, None, str(file), verbose=False, datamodule=datamodule, weights_only=True)
        if self.settings.data.get("test_split"):  # read once: by what validation has selected
            scores += trainer.test(task, None, str(file), verbose=False, datamodule=datamodule, weights_only=True)
        if trainer.is_global_zero:
            metrics = {name: float(value) for part in scores for name, value in part.items()}
            step = self.checkpoints.store.step_of(chosen)
            selected = {
                "checkpoint": chosen.name,
                "checkpoint_step": step,
                "rule": rule,
                "data": datamodule.manifests(),
            }
            write_json(self.folder.record, {**record, **selected})
            write_json(self.folder.metrics, dict(sorted({**metrics, **datamodule.references()}.items())))
        if task.predicts:
            trainer.predict(task, None, datamodule, return_predictions=False, ckpt_path=file, weights_only=True)
        if trainer.is_global_zero:
            print(f"{chosen} is the selected checkpoint ({rule})")
            print_scores(self.folder.metrics)
        if record["steps"] != trained:
            raise UserError(
                f"step {trained}, the last one, could not be saved in {self.folder.path}: its checkpoint and record "
                f"are of step {record['steps']}. Make room, and go on with --ckpt_path auto"
            )

    def record_test(self, trainer: L.Trainer, checkpoint: str) -> None:
        """Add the test scores to metrics.json, and to run.json what they are of.

        They are called ``test/...`` for the selected checkpoint on the split that the fit names, or that is tested
        first; others have the split or the checkpoint in their names, so that no scores take another's place.

        Args:
            trainer: after its test.
            checkpoint: that was tested.
        """
        if not trainer.is_global_zero:
            return
        metrics, record = read_object(self.folder.metrics), read_object(self.folder.record)
        split = self.settings.data.test_split
        own = record.get("test_split") or split, record.get("checkpoint", Path(checkpoint).name)
        others = [name for name, of in zip((split, Path(checkpoint).name), own, strict=True) if name != of]
        prefix, record["test_split"] = "_".join(["test", *others]), own[0]
        for name, value in trainer.callback_metrics.items():
            metrics[f"{prefix}/{name.removeprefix('test/')}"] = float(value)
        tested = {"split": split, "checkpoint": Path(checkpoint).name, "command": self._command()}
        record["tested"] = {**record.get("tested", {}), prefix: tested}
        write_json(self.folder.metrics, dict(sorted(metrics.items())))
        write_json(self.folder.record, record)
        print_scores(self.folder.metrics)

    def _command(self) -> str:
        return shlex.join(["python", "-m", "vle_lightning", *self.arguments])

    def _describe(
        self, trainer: L.Trainer, task: VisionLanguageTask, datamodule: Recorded, steps: int
    ) -> dict[str, object]:
        """Describe the run up to a step, the last one that was saved."""
        skipped = self.skips.counts
        return {
            "run_name": self.settings.run_name,
            "task": self.settings.task,
            "command": self._command(),
            **git_state(),
            "versions": versions(),
            "seed": self.settings.seed_everything,
            "test_split": self.settings.data.get("test_split"),
            "init": task.load_report,
            "steps": steps,
            "samples_seen": steps * self.settings.data.global_batch_size - lost_samples(skipped, "train"),
            "samples_by_source": datamodule.samples_by_source(steps),
            "skipped": skipped_by_split(skipped),
            "bad_steps": self.health.bad_steps,
            "seconds": round(self.clock.seconds, 1),
            "devices": trainer.num_nodes * trainer.num_devices,
            "precision": str(self.settings.trainer.precision),
        }


def skipped_by_split(counts: Counter[Kind]) -> dict[str, dict[str, int]]:
    """Return how often each kind was skipped, by split."""
    splits = dict.fromkeys(kind.split for kind in counts)
    return {split: {kind.name: n for kind, n in counts.items() if kind.split == split} for split in splits}


def names_of(datamodule: Recorded) -> Names:
    """Say how the data's numbers read."""
    return Names(
        lambda ids: str(datamodule.tokenizer.decode(ids)),
        datamodule.class_names if isinstance(datamodule, Classed) else (),
    )


def print_scores(file: Path) -> None:
    """Print a metrics.json, one number a line."""
    print(f"{file}:")
    for name, value in read_object(file).items():
        print(f"  {name:<40} " + ("not finite" if value is None else f"{value:.4f}"))
