"""Does an experiment fit the job that shall run it?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vle_lightning.errors import UserError
from vle_lightning.slurm.script import Resources
from vle_lightning.strategies.build import make_strategy

MANIFEST = "manifest.json"  # of a shard folder (docs/data.md)
OURS = ("--trainer.num_nodes", "--trainer.devices", "--ckpt_path")  # follow from the job
Settings = Mapping[str, Any]
Reader = Callable[[Sequence[str]], Settings]  # from the options of fit to all its options, defaults included
Accumulate = Callable[[int, int, int], int]  # from global batch, device's batch and devices to micro-batches a step


def refuse_ours(fit: Sequence[str]) -> None:
    """Refuse options of ``fit`` that are the job's to say.

    Raises:
        UserError: there is one.
    """
    for option in (argument.split("=")[0] for argument in fit):
        if option in OURS:
            raise UserError(f"{option} follows from the job; set --nodes and --gpus or --devices instead")


def check(settings: Settings, job: Resources, accumulate: Accumulate) -> dict[str, str]:
    """Check batch arithmetic and shards; return what is worth showing, by name.

    Args:
        settings: every option of the experiment.
        job: what it will run on.
        accumulate: the samplers' rule.

    Raises:
        UserError: the experiment cannot run on so many devices, or wants others.
    """
    wanted = settings["trainer"]["accelerator"]
    if wanted not in ("auto", *(("gpu", "cuda") if job.on_gpus else ("cpu",))):
        others = "--gpus 0 and --devices N" if job.on_gpus else "--gpus N"
        raise UserError(f"trainer.accelerator is {wanted}; ask for {others}, or set another one")
    for name in ("batch_size", "global_batch_size"):
        if settings["data"][name] < 1:
            raise UserError(f"data.{name} is {settings['data'][name]}; it must be at least 1")
    if isinstance(strategy := settings["trainer"]["strategy"], str):
        options = ("offload", "sharded_checkpoints")
        offload, sharded = (bool(settings.get(name, False)) for name in options)
        make_strategy(strategy, "gpu" if job.on_gpus else "cpu", "32-true", offload, 1.0, sharded)  # refuses
    data, steps = settings["data"], int(settings["trainer"]["max_steps"])
    try:
        micro_batches = accumulate(data["global_batch_size"], data["batch_size"], job.world_size)
    except ValueError as error:
        raise UserError(f"on {job.nodes} node(s) with {job.devices} device(s) each, {error}") from error
    return {
        "ranks": f"{job.world_size} = {job.nodes} node(s) x {job.devices} {'GPU' if job.on_gpus else 'CPU task'}(s)",
        "batch": f"{data['global_batch_size']:,} samples a step = "
        f"{data['global_batch_size'] // (job.world_size * micro_batches)} x {job.world_size} ranks "
        f"x accumulation {micro_batches}",
        "steps": f"{steps:,}" if steps > 0 else "as many as trainer.max_epochs has",
        "shards": describe_shards(data, steps),
    }


def describe_shards(data: Settings, steps: int) -> str:
    """Say what the training shards hold, or that nobody looked.

    Any rank reads any sample, so that no number of ranks is too many for the shards.

    Args:
        data: the options of the data module.
        steps: of the run; -1 where they are not given.

    Raises:
        UserError: a source has no shards here, or an epoch has less than one step.
    """
    root = Path(data["root"])
    if not root.is_dir():
        return f"not checked: {data['root']} is not readable here; every node must read it"
    shards = samples = 0
    splits = [data["train_split"]] if isinstance(data["train_split"], str) else data["train_split"]
    for source, weight, split in ((*pair, split) for split in splits for pair in data["sources"].items()):
        manifest = root / source / split / MANIFEST
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            shards += len(content["shards"])
            samples += int(weight * content["samples"])
        except FileNotFoundError as error:
            raise UserError(f"data.sources: there is no {manifest}; python -m datamodules.prepare writes it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{manifest} is not a shard manifest ({error!r}); make the shards again") from error
    per_epoch = samples // data["global_batch_size"]
    if not per_epoch:
        raise UserError(
            f"data.global_batch_size is {data['global_batch_size']}, but an epoch of data.sources has {samples} samples"
        )
    epochs = f", {steps / per_epoch:.1f} epochs" if steps > 0 else ""
    return f"{shards:,} with {samples:,} samples an epoch{epochs}; every node must read {root}"
