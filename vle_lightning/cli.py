"""The command line: an experiment file in, a run folder out.

``python -m vle_lightning {fit,validate,test,predict} --config experiments/pretrain/toy.yaml``; the file's ``task`` names a
module of ``vle_lightning.tasks`` and one of ``datamodules``, so a new task is two new files.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from vle_lightning.callbacks.recorder import ConfigRecord, RunLogger
from vle_lightning.errors import UserError
from vle_lightning.parsing import ExperimentParser, ParseError, explain, read_experiment
from vle_lightning.run import RunFolder, choose_checkpoint, finish_fit, make_callbacks
from vle_lightning.study import run_study

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data modules order micro-batches themselves
    "gradient_clip_val": 1.0,  # ours; nobody published one
    "log_every_n_steps": 10,
}
OUR_PACKAGES = ("vle_lightning.", "datamodules.")
STUDY = "study"


class ExperimentCLI(LightningCLI):
    """LightningCLI for one task, chosen by the experiment file."""

    datamodule: L.LightningDataModule
    model: L.LightningModule
    trainer: L.Trainer

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:
        """Parse, build, and run the subcommand.

        Args:
            args: the command line; that of the process by default.
            run: False builds everything and runs nothing; ``args`` has no subcommand then.

        Raises:
            UserError: of anything that a user can mend.
        """
        self.experiment = read_experiment(sys.argv[1:] if args is None else args)
        super().__init__(
            find_module("vle_lightning.tasks", self.experiment.task).Task,
            find_module("datamodules", self.experiment.task).DataModule,
            save_config_callback=ConfigRecord,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"parser_mode": "omegaconf+"},
            parser_class=ExperimentParser,
            args=None if args is None else list(args),
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, of data and model alike."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of data, weights and dropout.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what every experiment shares beside trainer, model and data."""
        parser.add_argument("--task", type=str, default=self.experiment.task, help="Module in vle_lightning/tasks.")
        parser.add_argument("--run_name", type=str | None, default=None, help="Default: <task>-<experiment file>.")
        parser.add_argument("--run_root", type=str, default="checkpoints", help="Folder of the run folders.")
        parser.add_argument(
            "--validate_every", type=int | None, default=None, help="Optimiser steps; default: each epoch."
        )
        parser.add_argument(
            "--save_every", type=int | None, default=None, help="Optimiser steps; default: at each validation."
        )
        parser.add_argument("--max_skipped", type=float, default=0.01, help="Share of unusable samples that ends a run.")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("seed_everything", "model.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str] | None) -> None:
        """Parse; what is wrong becomes one sentence."""
        options = next(iter(self._subcommand_parsers.values()), parser) if self._subcommand_parsers else parser
        known = [action.dest for action in options._actions]
        try:
            super().parse_arguments(parser, args)
        except ParseError as error:
            raise UserError(explain(str(error), self.experiment, known)) from error
        except OmegaConfBaseException as error:
            key = str(error.full_key).removeprefix("fit.")
            raise UserError(f"{self.experiment.source(key)}: {key}: {error.msg}") from error
        self._refuse_scalars(options)

    def before_instantiate_classes(self) -> None:
        """Settle what depends on the subcommand and the machine, so that config.yaml holds it."""
        settings = self.settings
        settings.run_name = settings.run_name or self.experiment.run_name
        self.folder = RunFolder(Path(settings.run_root) / settings.run_name)
        if settings.trainer.accumulate_grad_batches != 1:
            raise UserError(
                f"{self.experiment.source('trainer.accumulate_grad_batches')}: trainer.accumulate_grad_batches follows "
                "from data.global_batch_size, data.batch_size and the number of devices; set those"
            )
        if settings.trainer.precision is None:
            on_gpu = torch.cuda.is_available() and settings.trainer.accelerator in ("auto", "gpu", "cuda")
            settings.trainer.precision = "bf16-mixed" if on_gpu else "32-true"
        if self.subcommand is not None:
            settings.weights_only = True
            settings.ckpt_path = choose_checkpoint(self.subcommand, settings.ckpt_path, self.folder)
        if self.subcommand not in (None, "fit"):
            settings.model.init = None  # the checkpoint holds every weight
        elif settings.model.init and self.folder.holds(Path(settings.model.init)):
            raise UserError(f"model.init={settings.model.init} lies in the folder of this run; choose another run_name")

    def instantiate_trainer(self, **kwargs: object) -> L.Trainer:
        """Build the trainer, with accumulation and validation counted in optimiser steps."""
        report = getattr(self.model, "load_report", None)
        if report and rank_zero_only.rank == 0:
            print(f"model.init: {report}")
        settings = self.settings
        kwargs["default_root_dir"] = str(self.folder.path)
        if settings.trainer.logger in (None, True):
            kwargs["logger"] = RunLogger(self.folder.path)
        callbacks = make_callbacks(self.folder, self.model, self.datamodule, settings)
        kwargs["callbacks"] = [*(self.config_init_of("trainer").callbacks or []), *callbacks]
        trainer = super().instantiate_trainer(**kwargs)
        trainer.accumulate_grad_batches = self.datamodule.accumulation(trainer.num_nodes * trainer.num_devices)
        if settings.validate_every:
            trainer.val_check_interval = settings.validate_every * trainer.accumulate_grad_batches
            trainer.check_val_every_n_epoch = None
        return trainer

    def before_fit(self) -> None:
        """Keep what an earlier run left under this name."""
        if self.settings.ckpt_path is None and rank_zero_only.rank == 0:
            self.folder.set_aside()

    def after_fit(self) -> None:
        """Validate the selected checkpoint once more, and write the record."""
        finish_fit(self.trainer, self.model, self.datamodule, self.folder, self.settings)

    @property
    def settings(self) -> Namespace:
        """Return the options of the chosen subcommand."""
        settings: Namespace = self.config if self.subcommand is None else self.config[self.subcommand]
        return settings

    def config_init_of(self, key: str) -> Namespace:
        """Return options with their classes built."""
        options: Namespace = self._get(self.config_init, key)
        return options

    def _refuse_scalars(self, parser: LightningArgumentParser) -> None:
        for group in parser.groups or {}:
            value = self.settings.get(group, Namespace())
            if not isinstance(value, Namespace):
                raise UserError(f"{self.experiment.source(group)}: {group} is a group of options, not {value!r}")


def find_module(package: str, task: str) -> ModuleType:
    """Import the module of a task.

    Args:
        package: ``vle_lightning.tasks`` or ``datamodules``.
        task: the module's name, from the experiment file.

    Raises:
        UserError: there is no such task.
    """
    if not task.isidentifier() or importlib.util.find_spec(f"{package}.{task}") is None or task not in task_names():
        raise UserError(f"task: there is no task {task!r}; choose one of {', '.join(task_names())}")
    return importlib.import_module(f"{package}.{task}")


def task_names() -> list[str]:
    """Return the names that have a module with a task and one with its data."""
    names = [module.name for module in pkgutil.iter_modules(importlib.import_module("vle_lightning.tasks").__path__)]
    with_data = [name for name in names if importlib.util.find_spec(f"datamodules.{name}")]
    return [name for name in with_data if hasattr(importlib.import_module(f"vle_lightning.tasks.{name}"), "Task")]


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: the command line; that of the process by default.

    Returns:
        The exit code: 2 after an error that the user can mend.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    try:
        if arguments[:1] == [STUDY]:
            return run_study(arguments[1:])
        ExperimentCLI(args)
    except (ValueError, FileNotFoundError) as error:
        if not (isinstance(error, UserError) or raised_by_us(error)):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def raised_by_us(error: Exception) -> bool:
    """Was it one of our own checks that failed before the first step, and not a library or a step?"""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    stepping = any(frame.f_code.co_name == "advance" for frame in frames)  # of Lightning's loops
    return bool(frames) and not stepping and str(frames[-1].f_globals.get("__name__")).startswith(OUR_PACKAGES)
