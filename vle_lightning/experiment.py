"""From an experiment file to a trainer, a task and its data, and what happens before and after a run.

The file's ``task`` names a module of ``vle_lightning.tasks`` and one of ``datamodules``, so that a new task is two new
files.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from types import ModuleType
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf.errors import OmegaConfBaseException

import datamodules
import vle_lightning.tasks
from datamodules.base import VisionLanguageDataModule
from datamodules.starvation import check_limits
from vle_lightning.callbacks.recorder import ConfigRecord, RunLogger, is_first_process
from vle_lightning.checkpointing.whole import as_file
from vle_lightning.errors import UserError
from vle_lightning.options import add_options, check_trainer, check_values, spread, tune
from vle_lightning.parsing import (
    ExperimentParser,
    ParseError,
    explain,
    read_experiment,
    refuse_empty,
    refuse_misplaced,
    spell_out,
)
from vle_lightning.resuming import check_checkpoint
from vle_lightning.run import Run
from vle_lightning.run_folder import RunFolder, check_run_name
from vle_lightning.slurm.job import check_job
from vle_lightning.strategies.build import SPREADING, STRATEGIES
from vle_lightning.tasks.base import VisionLanguageTask

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data modules order micro-batches themselves
    "gradient_clip_val": 1.0,  # ours; VLE and METER name none
    "log_every_n_steps": 10,
}
GROUPS = ("trainer", "model", "model.optim", "data")
SEEDED = ("data.seed", "model.seed")
LINKED = {
    **dict.fromkeys(SEEDED, "seed_everything"),
    "trainer.accumulate_grad_batches": "data.global_batch_size, data.batch_size and the number of devices",
}
DEVICES = re.compile("device|gpu|accelerator", re.IGNORECASE)  # that a Trainer's message is about
RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
AnyDataModule = VisionLanguageDataModule[Any, Any]


class ExperimentCLI(LightningCLI):
    """LightningCLI for one task, chosen by the experiment file."""

    datamodule: AnyDataModule
    model: VisionLanguageTask
    trainer: L.Trainer
    run: Run

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:
        """Parse, build, and run the subcommand.

        Args:
            args: the command line; that of the process by default.
            run: False builds everything and runs nothing; ``args`` names no subcommand then.

        Raises:
            UserError: of anything that a user can fix.
        """
        self.experiment = read_experiment(sys.argv[1:] if args is None else args)
        task = find_module(vle_lightning.tasks, self.experiment.task).Task
        super().__init__(
            task,
            find_module(datamodules, self.experiment.task).DataModule,
            save_config_callback=ConfigRecord,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"parser_mode": "omegaconf+"},
            parser_class=ExperimentParser,
            args=spell_out(self.experiment, signature(task).parameters["architecture"].default),
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @property
    def settings(self) -> Namespace:
        """Return the options of the chosen subcommand."""
        settings: Namespace = self.config if self.subcommand is None else self.config[self.subcommand]
        return settings

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, of data and model alike."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Of data, weights and dropout.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what every experiment shares beside trainer, model and data."""
        add_options(parser, self.experiment.task)
        for target in SEEDED:
            parser.link_arguments("seed_everything", target)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Build the parser of the subcommand that is asked for; of all where none is, for the help and the error."""
        known = super().subcommands()
        asked = self.experiment.arguments[:1]
        return {name: skip for name, skip in known.items() if name in asked} or known

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401
        """Add what one subcommand alone knows; Lightning has no public place for that."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--plots", type=str | None, default=None, help="Folder for pictures of samples with their predictions."
            )
            parser.add_argument("--plots_count", type=int, default=24, help="So many samples are drawn.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; whatever is wrong becomes one sentence."""
        refuse_misplaced(self.experiment, GROUPS, LINKED)
        try:
            super().parse_arguments(parser, args)
        except ParseError as error:
            raise UserError(explain(str(error), self.experiment, self._options())) from error
        except OmegaConfBaseException as error:
            key = str(error.full_key).split(".", 1)[-1]
            raise UserError(f"{self.experiment.source(key)}: {key}: {str(error.msg).splitlines()[0]}") from error
        refuse_empty(self.experiment, GROUPS, self._options())
        settings = self.config[self.config.subcommand] if "subcommand" in self.config else self.config
        check_values(settings, self.experiment)

    def _parse_ckpt_path(self) -> None:
        """Take no options from a checkpoint: Lightning would let its ``hyper_parameters`` override the experiment."""

    def before_instantiate_classes(self) -> None:
        """Settle what depends on the subcommand and the machine, so that config.yaml holds it."""
        settings, source = self.settings, self.experiment.source
        check_trainer(settings, self.experiment)
        given = self.experiment.run_name if settings.run_name is None else settings.run_name
        settings.run_name = check_run_name(given)
        folder = RunFolder(Path(settings.run_root) / settings.run_name)
        self.run = run = Run(folder, settings, self.experiment.arguments)
        if settings.trainer.precision is None:
            on_gpu = torch.cuda.is_available() and settings.trainer.accelerator in ("auto", "gpu", "cuda")
            settings.trainer.precision = "bf16-mixed" if on_gpu else "32-true"
        if self.subcommand == "fit" and is_first_process():
            run.lock.take()  # before anything is looked at or renamed that another start may be changing
        if self.subcommand in ("test", "predict") and is_first_process():
            folder.refuse_strangers()
        if self.subcommand is not None:
            folder.refuse_folders()
        if self.subcommand is not None:
            settings.weights_only = True
            self._goes_on = settings.ckpt_path is not None
            chosen = folder.choose_checkpoint(self.subcommand, settings.ckpt_path)
            settings.ckpt_path = chosen and str(as_file(Path(chosen), is_first_process()))
        if self.subcommand not in (None, "fit"):
            for key in settings.model.keys():  # noqa: SIM118 (a Namespace)
                if key == "init" or key.endswith("_init"):
                    settings.model[key] = None  # the checkpoint holds every weight
        elif settings.model.init and folder.holds(Path(settings.model.init)):
            raise UserError(
                f"{source('model.init')}: model.init lies in {folder.path}, the folder of this very run; "
                "choose another run_name"
            )

    def instantiate_trainer(self, **kwargs: object) -> L.Trainer:
        """Build the trainer, with accumulation and validation counted in optimiser steps."""
        settings, run = self.settings, self.run
        given_size, size = self.model.model.config.image_size, self.datamodule.image_size
        resizes = (
            self.subcommand == "fit" and not settings.ckpt_path and self.datamodule.reads_images and given_size != size
        )
        if self.model.load_report and is_first_process():
            then = f"; then resized the image encoder's positions from {given_size} to {size} pixels" if resizes else ""
            print(f"model.init: {self.model.load_report}{then}")
        if self.subcommand is not None:
            self._check()
        if resizes:
            self.model.model.resize_images(size)
        given = self._get(self.config_init, "trainer").callbacks
        watchers = run.callbacks(self.model, self.datamodule)
        if settings.trainer.logger in (None, True):
            kwargs["logger"] = RunLogger(run.folder.path, run.resumed_step)
        callbacks = [*(given or []), *watchers]
        tune(self.model, settings)
        kwargs |= spread(settings, self._get(self.config_init, "trainer").plugins, self.model)
        try:
            trainer = super().instantiate_trainer(default_root_dir=str(run.folder.path), callbacks=callbacks, **kwargs)
        except UserError:
            raise
        except Exception as error:  # of any kind: Lightning has no type of its own for wrong devices and the like
            told = " ".join(str(error).split()) or type(error).__name__
            hint = f" (trainer.devices is {settings.trainer.devices})" if DEVICES.search(told) else ""
            raise UserError(f"trainer: {told}{hint}") from error
        check_job(os.environ, trainer.num_nodes, trainer.num_devices)
        micro_batches = self.datamodule.accumulation(trainer.num_nodes * trainer.num_devices)
        trainer.accumulate_grad_batches = micro_batches
        self._tell_of_batches(trainer.num_nodes * trainer.num_devices, micro_batches)
        if settings.validate_every:
            trainer.val_check_interval = settings.validate_every * micro_batches
            trainer.check_val_every_n_epoch = None
        return trainer

    def _tell_of_batches(self, devices: int, micro_batches: int) -> None:
        """Say what a step is made of, where it is more than one micro-batch on one device."""
        data = self.datamodule
        if self.subcommand == "fit" and is_first_process() and devices * micro_batches > 1:
            size = data.global_batch_size // (devices * micro_batches)
            less = f" (data.batch_size {data.batch_size} is more than that)" if size < data.batch_size else ""
            print(
                f"a step: {data.global_batch_size} samples = {devices} device(s) x {micro_batches} micro-batch(es) x "
                f"{size} samples{less}"
            )

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; where this process fails, those that it has started do not wait for it in vain."""
        try:
            super()._run_subcommand(subcommand)
        except BaseException as error:
            launcher = self.trainer.strategy.launcher
            if isinstance(launcher, _SubprocessScriptLauncher):
                end_processes(launcher.procs)
            if isinstance(error, Exception) and not isinstance(error, UserError) and is_of_restoring(error):
                told = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise UserError(
                    f"--ckpt_path: {self.settings.ckpt_path} cannot be restored, it is damaged: {told[:200]}; take "
                    "another checkpoint of the run folder"
                ) from error
            raise

    def _check(self) -> None:
        """Refuse, before anything runs, what cannot end well."""
        settings, source = self.settings, self.experiment.source
        self.datamodule.check()
        if found := self.model.disagreements(self.datamodule.facts()):
            raise UserError("; ".join(f"{source(told.split()[0])}: {told}" for told in found))
        if settings.trainer.strategy in SPREADING and not self.model.calls_alike:
            raise UserError(
                f"trainer.strategy: under {settings.trainer.strategy} each rank holds a part of every weight, so that "
                f"all must call the model equally often, which {self.experiment.task} does not: choose one of "
                + ", ".join(name for name in STRATEGIES if name not in SPREADING)
            )
        if settings.ckpt_path:
            self.run.resumed_step = check_checkpoint(settings.ckpt_path, self.model)
        elif fault := self.model.lacks(self.model.new_heads):
            raise UserError(f"{source(fault.split()[0])}: {fault} (model.init: {settings.model.init})")
        if self.subcommand == "predict" and not self.model.predicts:
            raise UserError("predict: pre-training predicts matches; name itm in model.objectives")
        self.model.labels = self.datamodule.labels()

    def before_fit(self) -> None:
        """Listen to the scheduler, open the data, plan its order; only then put aside an earlier run of this name."""
        self.run.interruption.listen()
        self.datamodule.setup("fit")
        per_step = self.trainer.accumulate_grad_batches
        check_limits(self.trainer, self.datamodule.order().steps_per_epoch * per_step, per_step)
        if is_first_process() and self._goes_on:
            self.run.folder.refuse_strangers()
        elif is_first_process():
            self.run.folder.set_aside()

    def after_fit(self) -> None:
        """Validate the selected checkpoint once more, and write the record."""
        if not self.settings.trainer.fast_dev_run:
            self.run.finish(self.trainer, self.model, self.datamodule)
        self.run.lock.release()

    def after_test(self) -> None:
        """Keep the scores beside those of the fit."""
        self.run.record_test(self.trainer, str(self.settings.ckpt_path))

    def _options(self) -> list[str]:
        commands: dict[str, LightningArgumentParser] = getattr(self, "_subcommand_parsers", {})
        chosen = [parser for name, parser in commands.items() if name in self.experiment.arguments[:1]]
        return [action.dest for parser in (*chosen, self.parser) for action in parser._actions]


def is_of_restoring(error: Exception) -> bool:
    """Did Lightning fail at taking the state of a run out of a checkpoint?"""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_code.co_name for frame in frames if str(frame.f_globals.get("__name__")) == RESTORING]
    return bool(names) and "dump_checkpoint" not in names  # which saves


def end_processes(processes: Sequence[Popen[bytes]], patience: float = 20.0) -> None:
    """Wait for processes to end by themselves, as they do where all ranks have met the same end; then kill them."""
    limit = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(limit - time.monotonic(), 0))
        except TimeoutExpired:
            process.kill()


class Settings(ExperimentCLI):
    """Parses an experiment, settles nothing and builds nothing."""

    def _set_seed(self) -> None:
        """Draw nothing."""

    def before_instantiate_classes(self) -> None:
        """Leave open what the machine decides: it may not be the one that trains."""

    def instantiate_classes(self) -> None:
        """Stop before anything is built."""


def read_settings(arguments: Sequence[str]) -> Mapping[str, Any]:
    """Return all options of an experiment, defaults included, as plain types.

    Args:
        arguments: of a fit, without its name.

    Raises:
        UserError: they cannot be parsed.
    """
    settings: Mapping[str, Any] = Settings(arguments, run=False).settings.as_dict()
    return settings


def find_module(package: ModuleType, task: str) -> ModuleType:
    """Import the module of a task.

    Args:
        package: ``vle_lightning.tasks`` or ``datamodules``.
        task: the module's name, from the experiment file.

    Raises:
        UserError: there is no such task.
    """
    names = task_names()
    if task not in names:
        raise UserError(f"task: there is no task {task!r}; choose one of {', '.join(names)}")
    return importlib.import_module(f"{package.__name__}.{task}")


def task_names() -> list[str]:
    """Return the names that are both a module with a task and one with its data."""
    tasks, data = ({m.name for m in pkgutil.iter_modules(p.__path__)} for p in (vle_lightning.tasks, datamodules))
    return sorted(n for n in tasks & data if hasattr(importlib.import_module(f"vle_lightning.tasks.{n}"), "Task"))
