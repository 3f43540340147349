"""Whether a run can go on from a checkpoint: everything that is restored from it is looked at before anything is."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.hub.folder import not_finite, read_plain
from vle_lightning.hub.temperatures import renew_temperatures
from vle_lightning.optim import parameter_groups
from vle_lightning.tasks.base import VisionLanguageTask

PARTS: dict[str, type] = {  # what Lightning restores
    "loops": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "callbacks": dict,
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
}
LOOPS = (  # of a fit: what its counters lie under
    "state_dict",
    "epoch_loop.state_dict",
    "epoch_loop.batch_progress",
    "epoch_loop.scheduler_progress",
    "epoch_loop.automatic_optimization.state_dict",
    "epoch_loop.automatic_optimization.optim_progress",
    "epoch_loop.manual_optimization.state_dict",
    "epoch_loop.manual_optimization.optim_step_progress",
    "epoch_loop.val_loop.state_dict",
    "epoch_loop.val_loop.batch_progress",
    "epoch_progress",
)
STEPS = ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed")
VERSION = re.compile(r"[2-9]\.\d+")  # of Lightning: checkpoints of this code were never written by an earlier one
SHOWN = 5  # tensors in a message
OTHER = "take another checkpoint of the run folder"


def check_checkpoint(file: str, task: VisionLanguageTask) -> int:
    """Make sure that a run can go on from a checkpoint; the task's position table is resized to the checkpoint's.

    Returns:
        The step that it is of.

    Raises:
        UserError: it cannot be read, holds more than plain data, is damaged, or is of another model.
    """
    content = read_plain(Path(file), "--ckpt_path")
    weights = content.get("state_dict")
    if not isinstance(weights, dict):
        raise UserError(f"--ckpt_path: {file} is no checkpoint of a run: it has no 'state_dict'")
    if lacking := sorted({"pytorch-lightning_version", "loops", "optimizer_states"} - content.keys()):
        raise UserError(
            f"--ckpt_path: {file} holds weights alone (no {', '.join(lacking)}); start from it with --model.init"
        )
    faults = chain(_faults_of_types(content), _faults_of_schedule(content), _faults_of_loops(content))
    if fault := next(chain(faults, _faults_of_weights(weights)), None):
        raise UserError(f"--ckpt_path: {file} is damaged: {fault}; {OTHER}")
    renew_temperatures(content)
    _check_model(file, content, weights, task)
    if fault := task.lacks(content.get("untrained", ())):
        raise UserError(f"--ckpt_path: {file}: {fault}")
    if fault := next(_faults_of_optimizer(content["optimizer_states"], task), None):
        raise UserError(f"--ckpt_path: {file} is damaged: {fault}; {OTHER}")
    return int(content["global_step"])


def _faults_of_types(content: Mapping[str, Any]) -> Iterator[str]:
    """Say what is not of the type that Lightning restores it from."""
    for key, kind in PARTS.items():
        if type(content.get(key)) is not kind:
            yield f"its {key} are a {type(content.get(key)).__name__}, not a {kind.__name__}"
    if not VERSION.match(content["pytorch-lightning_version"]):
        yield f"its pytorch-lightning_version is {content['pytorch-lightning_version']!r}"
    if not isinstance(content.get("options", {}), dict):
        yield "its options are no mapping"
    if not isinstance(content.get("untrained", []), list):
        yield "its untrained heads are no list"
    if wrong := [name for name, state in content["callbacks"].items() if not isinstance(state, dict)]:
        yield f"the state of its callback {wrong[0]} is not a mapping"


def _faults_of_schedule(content: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the learning rates' schedule, of which there is one."""
    if len(content["lr_schedulers"]) != 1:
        yield f"it holds {len(content['lr_schedulers'])} lr_schedulers, not one"
    (schedule,) = content["lr_schedulers"]
    counts = [schedule.get("last_epoch"), schedule.get("_step_count", 0)] if isinstance(schedule, dict) else [None]
    if not all(type(count) is int and count >= 0 for count in counts):
        yield "its lr_schedulers do not tell at which step they are"


def _faults_of_loops(content: Mapping[str, Any]) -> Iterator[str]:
    """Say what of the loops' counters is not as a fit saves it."""
    fit = content["loops"].get("fit_loop")
    if not isinstance(fit, dict):
        yield "its loops have no fit_loop"
        return
    if lacking := [key for key in LOOPS if not isinstance(fit.get(key), dict)]:
        yield f"its loops have no {lacking[0]}"
    for key in LOOPS:
        if "state_dict" not in key:
            yield from _wrong_counters(fit[key], key)
    steps: Any = fit
    for key in STEPS:
        steps = steps.get(key) if isinstance(steps, dict) else None
    if content["global_step"] < 0 or content["epoch"] < 0 or steps != content["global_step"]:
        yield f"its global_step is {content['global_step']}, its epoch {content['epoch']}, its loops took {steps} steps"


def _wrong_counters(progress: object, name: str) -> Iterator[str]:
    if isinstance(progress, dict):
        for key, value in progress.items():
            yield from _wrong_counters(value, f"{name}.{key}")
    elif not isinstance(progress, int) or progress < 0:  # a bool is one, too
        yield f"its {name} is {progress!r}"


def _faults_of_weights(weights: Mapping[str, Any]) -> Iterator[str]:
    if wrong := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
        yield f"{wrong[0]} of its state_dict is not a tensor"
    if sick := not_finite(weights):
        yield f"it holds weights that are not finite (NaN or infinity), such as {', '.join(sick[:SHOWN])}"


def _resize(content: Mapping[str, Any], task: VisionLanguageTask) -> None:
    """Make the task one of the checkpoint's pictures: a fit resizes its positions once, at its start."""
    held = content.get("architecture")
    if isinstance(held, Mapping):
        with contextlib.suppress(UserError):  # of another model, which `_check_model` says
            task.model.resize_images(read_architecture(held, "architecture").image_size)


def _check_model(
    file: str, content: Mapping[str, Any], weights: Mapping[str, Tensor], task: VisionLanguageTask
) -> None:
    """Refuse the checkpoint of another model."""
    _resize(content, task)
    blind = content.get("options", {}).get("blind", task.model.blind)
    if blind != task.model.blind:
        raise UserError(f"--ckpt_path: {file} was trained with model.blind {blind}, not {task.model.blind}")
    own = task.state_dict()
    faults = [f"{key} is missing" for key in own.keys() - weights.keys()]
    faults += [f"{key} is unknown here" for key in weights.keys() - own.keys()]
    for key in own.keys() & weights.keys():
        if weights[key].shape != own[key].shape:
            faults.append(f"{key} is {tuple(weights[key].shape)}, the model has {tuple(own[key].shape)}")
        elif weights[key].is_floating_point() != own[key].is_floating_point() or weights[key].is_complex():
            faults.append(f"{key} holds {weights[key].dtype}, the model {own[key].dtype}")
    if faults:
        raise UserError(
            f"--ckpt_path: {file} is of another model (another model.architecture, objectives or answers?): "
            f"{len(faults)} tensors differ, such as {'; '.join(sorted(faults)[:3])}"
        )


def _faults_of_optimizer(states: list[object], task: VisionLanguageTask) -> Iterator[str]:
    """Compare AdamW's state with what this run optimises: its moments are shaped as the parameters are."""
    state = states[0] if len(states) == 1 else None
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        yield "its optimizer_states have no 'state', or there is not one of them"
        return
    groups = state.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) and "params" in group for group in groups):
        yield "its optimizer_states have no 'param_groups'"
        return
    wanted: list[list[Tensor]] = [group["params"] for group in parameter_groups(task, task.optim)]  # type: ignore[misc]
    numbers = [list(group["params"]) if isinstance(group["params"], list | tuple) else [] for group in groups]
    if [len(part) for part in numbers] != [len(part) for part in wanted]:
        yield (
            f"its optimizer_states are of groups of {[len(part) for part in numbers]} parameters, those of this run "
            f"have {[len(part) for part in wanted]} (or model.optim has other groups than that run's)"
        )
        return
    listed, places = list(chain.from_iterable(numbers)), chain.from_iterable(wanted)  # they meet by their places
    parameters = {number: place for number, place in zip(listed, places, strict=True) if isinstance(number, int)}
    if len(parameters) != len(listed) or not parameters.keys() >= state["state"].keys():
        yield "its optimizer_states name parameters twice, or none that there are"
        return
    for number, moments in state["state"].items():
        if not isinstance(moments, dict):
            yield f"entry {number} of its optimizer_states is not a mapping"
            return
        yield from _faults_of_moments(moments, number, parameters[number].shape)


def _faults_of_moments(moments: Mapping[str, object], number: int, shape: tuple[int, ...]) -> Iterator[str]:
    for key, value in moments.items():
        if key == "step":
            count = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
            if not isinstance(count, int | float) or not 0 <= count < math.inf:
                yield f"its optimizer_states do not tell the step of parameter {number}"
        elif not (isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()):
            yield f"its optimizer_states hold for {key} of parameter {number} what does not fit it, {tuple(shape)}"
    if sick := not_finite(moments):
        yield f"its optimizer_states are not finite: {sick[0]} of {number}"
