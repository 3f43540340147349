"""The rows of a study at real size: parameters and FLOPs of the planner, without data and without weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vle_lightning.ablation.report import PRETRAIN
from vle_lightning.ablation.rows import Options, Row, Study, merge
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import PRESET, read_architecture
from vle_lightning.models.presets import ALL_PRESETS
from vle_lightning.plan.command import Options as PlanOptions
from vle_lightning.plan.command import make_plan

MILLION, GIGA = 1e6, 1e9
ANY_GPU = PlanOptions(gpus=1, gpu="h100", utilisation=1.0, gpus_per_node=1, tokens=None, boxes=10, json=None)


@dataclass(frozen=True)
class Counted:
    """A row at real size; ``fault`` says why it could not be counted."""

    row: Row
    parameters: int = 0  # of the backbone
    flops: float = 0.0  # of a pair, forward and backward
    tokens: int = 0
    image_size: int = 0
    fault: str | None = None


def at_scale(
    study: Study,
    rows: Sequence[Row],
    preset: str,
    read_settings: Callable[[Sequence[str]], Mapping[str, Any]],
    accumulate: Callable[[int, int, int], int],
) -> list[Counted]:
    """Count each row with the sizes of a preset.

    Args:
        study: for messages.
        rows: to count.
        preset: whose sizes the parts take that a row does not name.
        read_settings: what reads an experiment.
        accumulate: the samplers' rule, for the planner.

    Raises:
        UserError: there is no such preset.
    """
    if preset not in ALL_PRESETS:
        raise UserError(f"--scale: there is no preset {preset!r}; choose one of {', '.join(ALL_PRESETS)}")
    counted = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            file = Path(folder) / f"{row.name}.yaml"
            try:
                file.write_text(yaml.safe_dump(enlarged(row, preset)), encoding="utf-8")
                plan = make_plan(ANY_GPU, read_settings(["--config", str(file)]), accumulate)
            except UserError as error:
                told = str(error).replace(f"{file}: ", "")
                counted.append(Counted(row, fault=f"{study.file}: row {row.name}, at_scale: {told}"))
                continue
            parameters = sum(n for part, (n, _) in plan.workload.parameters().items() if part != "heads")
            counted.append(Counted(row, parameters, plan.flops, *plan.workload.sample[:2]))
    return counted


def enlarged(row: Row, preset: str) -> Options:
    """Return the pre-training of a row with the parts of a preset, and pictures of the size that it is made for."""
    options = row.options[PRETRAIN]
    given = options.get("model", {}).get("architecture", preset)
    larger = {**given, PRESET: preset} if isinstance(given, Mapping) else preset
    options = merge(merge(options, {"model": {"architecture": larger, "init": None}}), row.at_scale)
    config = read_architecture(options["model"]["architecture"])
    own_size = row.at_scale.get("data", {}).get("image_size", config.image_size)
    return merge(options, {"data": {"image_size": own_size}})


def print_scale(study: Study, counted: Sequence[Counted], preset: str) -> int:
    """Print a table; return the exit code, 1 where a row could not be counted."""
    by_name = {count.row.name: count for count in counted}
    width = max(len(name) for name in by_name)
    print(f"{study.file} with the sizes of {preset}; parameters of the backbone, FLOPs forward and backward")
    print(f"{'row':<{width}}  {'M parameters':>12}  {'GFLOPs a pair':>13}  {'tokens':>6}  {'pixels':>6}  what")
    for count in counted:
        cells = f"{count.parameters / MILLION:>12.1f}  {count.flops / GIGA:>13.1f}  {count.tokens:>6}"
        shown = cells + f"  {count.image_size:>6}" if count.fault is None else f"{'not counted':>12}" + " " * 31
        print(f"{count.row.name:<{width}}  {shown}  {count.row.about_at_scale}")
    faults = [count.fault for count in counted if count.fault is not None]
    for fault in faults:
        print(f"error: {fault}")
    return 1 if faults else 0
