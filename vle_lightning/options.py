"""The options of an experiment beside those of its trainer, model and data."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_warn

from vle_lightning.domains import check_domains
from vle_lightning.errors import UserError
from vle_lightning.parsing import Experiment, fault_of_path
from vle_lightning.performance import checkpoint_activations, compile_layers
from vle_lightning.processor import has_bf16_units
from vle_lightning.slurm.environment import cluster_environment
from vle_lightning.strategies.build import STAGES, make_strategy
from vle_lightning.tasks.base import VisionLanguageTask

PATHS = (  # options that may name a file or a folder
    "run_root",
    "ckpt_path",
    "plots",
    "model.init",
    "model.text_init",
    "model.image_init",
    "data.root",
    "data.tokenizer",
    "data.classes",
    "data.answers",
)
BF16 = ("bf16-mixed", "bf16", "bf16-true")  # precisions
GRACE = 600  # seconds that a collective waits longer than the watchdog, which names who is missing


def add_options(parser: LightningArgumentParser, task: str) -> None:
    """Add what every experiment shares."""
    parser.add_argument("--task", type=str, default=task, help="A module of tasks.")
    parser.add_argument("--run_name", type=str | None, default=None, help="Default: <task>-<file name>.")
    parser.add_argument("--run_root", type=str, default="checkpoints", help="Folder of the run folders.")
    steps = "Optimiser steps; default: "
    parser.add_argument("--validate_every", type=int | None, default=None, help=f"{steps}each epoch.")
    parser.add_argument("--save_every", type=int | None, default=None, help=f"{steps}each validation.")
    parser.add_argument("--keep_last", type=int, default=2, help="So many checkpoints are kept beside the best.")
    parser.add_argument(
        "--max_skipped", type=float, default=0.01, help="Share of samples; more unusable ones end a run."
    )
    parser.add_argument(
        "--max_bad_steps", type=int, default=3, help="So many without a finite loss in a row end a run."
    )
    parser.add_argument("--hang_timeout", type=float, default=1800.0, help="Seconds without progress that end a run.")
    parser.add_argument("--offload", type=bool, default=False, help="DeepSpeed: optimiser states in host memory.")
    parser.add_argument(
        "--sharded_checkpoints",
        type=bool,
        default=False,
        help="fsdp, deepspeed: each rank writes its part of a folder. Faster for very large models.",
    )
    parser.add_argument(
        "--activation_checkpointing",
        type=list[str],
        default=[],
        help="Parts whose layers are computed again in backward: text, image, fusion; cheap: of the others what costs "
        "little, all but linear layers. Less memory, more time.",
    )
    parser.add_argument("--compile", type=bool, default=False, help="Compile the transformer layers (torch.compile).")


def check_values(settings: Namespace, experiment: Experiment) -> None:
    """Refuse values that no run can use.

    Raises:
        UserError: names the option and where it was given.
    """
    check_domains(settings, experiment)
    for key in PATHS:
        value = settings.get(key)
        if isinstance(value, str) and "://" not in value and (fault := fault_of_path(value)):
            raise UserError(f"{experiment.source(key)}: {key}: {fault}")
    if "://" in settings.run_root:
        raise UserError(f"{experiment.source('run_root')}: run_root is {settings.run_root}; runs are kept in a folder")
    if settings.get("plots") and Path(settings.plots).exists() and not Path(settings.plots).is_dir():
        raise UserError(f"--plots: {settings.plots} is a file; name a folder for the pictures")


def check_trainer(settings: Namespace, experiment: Experiment) -> None:
    """Refuse what the trainer takes and no run can use.

    Raises:
        UserError: names the option and where it was given.
    """
    trainer = settings.trainer
    wanted, strategy = str(trainer.precision), str(trainer.strategy)
    halves = () if strategy == "fsdp" or (strategy in STAGES and trainer.accelerator == "cpu") else ("16-mixed", "16")
    # fsdp and DeepSpeed keep float32 master weights under bf16-mixed
    masters = () if strategy == "fsdp" or strategy in STAGES else ("bf16-true",)
    known = ("32-true", "32", "bf16-mixed", "bf16", *masters, *halves)
    faults = {
        "trainer.precision": trainer.precision is not None and wanted not in known and f"choose {', '.join(known)}",
    }
    for key, fault in faults.items():
        if fault:
            under = f" under {strategy}" if key == "trainer.precision" else ""
            raise UserError(f"{experiment.source(key)}: {key} is {settings[key]}{under}; {fault}")
    root = Path(settings.run_root)
    parent = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{experiment.source('run_root')}: run_root {root}: {parent} is not a folder to write into")
    warn_of_emulated_bf16(trainer)


def warn_of_emulated_bf16(trainer: Namespace) -> None:
    """Say that a run in bf16 on a CPU without units for it is slow: up to 240 times in its matrix products."""
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.accelerator.is_available())
    if on_cpu and trainer.precision in BF16 and has_bf16_units() is False:
        rank_zero_warn(
            f"trainer.precision is {trainer.precision}, but this CPU has no bf16 units and "
            "emulates them: a step may take minutes; choose --trainer.precision 32-true"
        )


def tune(task: VisionLanguageTask, settings: Namespace) -> None:
    """Let the task's layers save memory and time as the options say."""
    checkpoint_activations(task.model, settings.activation_checkpointing)
    if settings.compile:
        compile_layers(task.model)


def spread(settings: Namespace, given: object, task: VisionLanguageTask) -> dict[str, object]:
    """Say in the trainer's words how a run is spread over devices and nodes.

    Args:
        settings: all options.
        given: the plugins that the experiment names.
        task: that is trained.

    Raises:
        UserError: the strategy is unknown, or the Slurm job has other numbers of nodes or tasks.
    """
    trainer = settings.trainer
    plugins = [*given] if isinstance(given, list) else [given] if given else []
    if (environment := cluster_environment(os.environ)) is not None:
        plugins.append(environment)
    if not isinstance(trainer.strategy, str):
        return {"plugins": plugins or None}
    name = "ddp" if trainer.strategy == "auto" and has_many(trainer) else trainer.strategy
    chosen = make_strategy(
        name,
        trainer.accelerator,
        trainer.precision,
        settings.offload,
        settings.hang_timeout + GRACE,
        settings.sharded_checkpoints,
        unused_weights=not task.trains_all,
    )
    if chosen.precision is None:
        return {"strategy": chosen.strategy, "plugins": plugins or None}
    return {"strategy": chosen.strategy, "plugins": [*plugins, chosen.precision], "precision": None}


def has_many(trainer: Namespace) -> bool:
    """Will there be more than one device?"""
    if trainer.num_nodes > 1:
        return True
    if trainer.devices in ("auto", -1, "-1"):
        return trainer.accelerator != "cpu" and torch.cuda.device_count() > 1
    if isinstance(trainer.devices, list):
        return len(trainer.devices) > 1
    told = str(trainer.devices)
    return "," in told or not told.isdigit() or int(told) > 1
