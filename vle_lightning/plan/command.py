"""``python -m vle_lightning plan --config FILE --gpus 64 --gpu h100``: what a run needs, before it has anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vle_lightning.errors import UserError
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.plan.gpus import GPUS, find_gpu, peak
from vle_lightning.plan.kinds import BOXES, find_kind
from vle_lightning.plan.memory import STAGES
from vle_lightning.plan.report import Accumulate, Plan, as_json, as_text
from vle_lightning.plan.stream import measured_bytes
from vle_lightning.plan.workload import find_workload

Settings = Mapping[str, Any]
Reader = Callable[[Sequence[str]], Settings]  # from a command line of fit to all its options, defaults included
UTILISATION = 0.35  # of the data sheet's FLOP/s; an assumption


@dataclass(frozen=True)
class Options:
    """What the command itself is told."""

    gpus: int
    gpu: str
    utilisation: float
    gpus_per_node: int
    tokens: int | None
    boxes: int
    json: Path | None


def run_plan(arguments: Sequence[str], read_settings: Reader, accumulate: Accumulate) -> int:
    """Print the plan of an experiment; return the exit code.

    Neither weights nor pictures are read, and no GPU is needed.

    Args:
        arguments: the command line behind ``plan``.
        read_settings: what reads an experiment; the command line's, which knows the options of the data as well.
        accumulate: the samplers' rule: from global batch, device's batch and devices to micro-batches a step.

    Raises:
        UserError: of anything that a user can fix.
    """
    options, experiment = parse(arguments)
    plan = make_plan(options, read_settings(experiment), accumulate)
    print(as_text(plan))
    if options.json is not None:
        try:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(as_json(plan), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {options.json} cannot be written: {error}") from error
    return 0


def parse(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Read the command's own options; return them, and those that belong to the experiment.

    Raises:
        UserError: an option is missing, or out of range.
    """
    parser = OneSentenceParser(
        "python -m vle_lightning plan",
        description="Memory, hours and data rates of an experiment on some GPUs. Other options are the experiment's, "
        "such as --config FILE and --data.batch_size 64.",
        allow_abbrev=False,
    )
    parser.add_argument("--gpus", type=int, required=True, help="how many")
    parser.add_argument("--gpu", required=True, help=f"which: {', '.join(GPUS)}")
    help_text = "share of the GPU's FLOP/s that the model's FLOPs reach; an assumption (default: %(default)s)"
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help=help_text)
    parser.add_argument("--gpus-per-node", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, help="of a text, padded (default: data.max_text_length, the most)")
    parser.add_argument("--boxes", type=int, default=BOXES, help="of an image, padded (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan there, too")
    known, experiment = parser.parse_known_args(arguments)
    options = Options(**vars(known))
    find_gpu(options.gpu)
    for name in ("gpus", "gpus_per_node", "tokens", "boxes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
    if not 0 < options.utilisation <= 1:
        raise UserError(f"--utilisation is {options.utilisation}; give a share above 0, at most 1")
    if not any(argument.split("=")[0] in ("--config", "-c") for argument in experiment):
        raise UserError("plan: name an experiment, such as --config experiments/pretrain/vle_base.yaml")
    return options, experiment


def make_plan(options: Options, settings: Settings, accumulate: Accumulate) -> Plan:
    """Gather everything that the plan is made of.

    Raises:
        UserError: the experiment is of another task, or wants what the planner does not know.
    """
    kind = find_kind(settings["task"])
    data, model, trainer = settings["data"], settings["model"], settings["trainer"]
    strategy = "ddp" if trainer["strategy"] == "auto" else str(trainer["strategy"])
    if strategy not in STAGES:
        raise UserError(f"trainer.strategy: the planner knows {', '.join(STAGES)}, not {strategy}")
    for name in ("batch_size", "global_batch_size"):
        if data[name] < 1:
            raise UserError(f"data.{name} is {data[name]}; it must be at least 1")
    precision = trainer["precision"] or ("bf16-mixed" if find_gpu(options.gpu).bf16 else "32-true")
    try:  # more devices than a step has batches get smaller ones
        micro_batches = accumulate(data["global_batch_size"], data["batch_size"], options.gpus)
        batch_size = data["global_batch_size"] // (micro_batches * options.gpus)
    except ValueError:  # the plan says so beside its choices
        batch_size = data["batch_size"]
    sample = kind.sample(data, options.tokens or data["max_text_length"], options.boxes)
    shaping = {name: model[name] for name in kind.shaping}
    workload = find_workload(settings["task"], model["architecture"], batch_size, sample, **shaping)
    counted = "samples" if sample.tokens else "images"
    records = measured_bytes(data["root"], data["sources"], data["train_split"], sample.assumed_bytes, counted)
    epochs, steps = max(trainer["max_epochs"] or 0, 0), max(trainer["max_steps"], 0)
    return Plan(
        workload=workload,
        gpu=options.gpu,
        gpus=options.gpus,
        gpus_per_node=min(options.gpus_per_node, options.gpus),
        peak=peak(options.gpu, str(precision)),
        utilisation=options.utilisation,
        precision=str(precision),
        strategy=strategy,
        offload=bool(settings.get("offload", False)),
        recomputed=tuple(settings.get("activation_checkpointing") or ()),
        batch_size=batch_size,
        global_batch_size=data["global_batch_size"],
        steps=steps or epochs * (records.epoch // data["global_batch_size"]),
        record_bytes=records,
        accumulate=accumulate,
    )
