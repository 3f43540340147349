"""Learning curves as data: read from a run's TensorBoard files, thinned, kept in a small JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from vle_lightning.errors import UserError
from vle_lightning.files import is_number, read_object, write_text
from vle_lightning.records import SCORES
from vle_lightning.run_folder import RunFolder
from vle_lightning.yaml_limits import read_yaml

STAGES = ("train", "val", "test")
LIMIT = 100_000  # bytes of a file: small enough to be committed
POINTS = (200, 100, 60, 40, 30, 25, 20, 15, 10)  # of a curve: as many as the limit allows
DIGITS = 4
ALL_SCALARS = {"scalars": 0}  # TensorBoard's word for keeping each point


@dataclass(frozen=True)
class Curve:
    """A scalar over the steps of a run, counted from 0 as TensorBoard shows them."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunCurves:
    """The curves of one run.

    Attributes:
        run: name of its folder.
        group: what it is drawn as; seeds of one experiment share it.
        task: of the run, which tells equal names of scores apart.
        seed: None: not recorded.
        commit: of the code that ran; "" where it is not known.
        scalars: by TensorBoard's name, such as "val/q2a".
    """

    run: str
    group: str
    task: str
    seed: int | None
    commit: str
    scalars: Mapping[str, Curve]


def read_curves(folder: Path, wanted: Sequence[str] | None = None) -> RunCurves:
    """Read a run folder; where a run went on after a kill, the later value of a step counts.

    Args:
        folder: of the run, finished or not.
        wanted: names of scalars, with * and ?; by default the loss, and the scores of the run's task.

    Raises:
        UserError: it is no run folder, or nothing of that kind was logged.
    """
    record = read_object(RunFolder(folder).record)
    config = RunFolder(folder).config
    if not config.is_file():
        raise UserError(f"{folder} is no run folder: it has no {config.name}")
    settings = read_yaml(config)
    task = str(record.get("task") or (settings.get("task", "") if isinstance(settings, dict) else ""))
    patterns = wanted or default_scalars(task)
    events = EventAccumulator(str(folder), size_guidance=ALL_SCALARS, purge_orphaned_data=False).Reload()
    names = [name for name in events.Tags()["scalars"] if any(fnmatchcase(name, pattern) for pattern in patterns)]
    scalars = {name: _curve(events.Scalars(name)) for name in sorted(names)}
    scalars = {name: curve for name, curve in scalars.items() if curve.steps}
    if not scalars:
        raise UserError(f"{folder}: its TensorBoard files hold nothing of {', '.join(patterns)}")
    seed, commit = record.get("seed"), str(record.get("commit") or "")[:7]
    return RunCurves(folder.name, folder.name, task, seed if isinstance(seed, int) else None, commit, scalars)


def default_scalars(task: str) -> tuple[str, ...]:
    """Return patterns of what a task's table rests on: the loss, its scores, and these by family or kind."""
    scores = [f"{score}{suffix}" for score in SCORES.get(task, ()) for suffix in ("", "_*")]
    return tuple(f"{stage}/{name}" for stage in STAGES for name in ("loss", *scores))


def read_file(file: Path) -> list[RunCurves]:
    """Read a file of curves, as `write_curves` leaves it.

    Raises:
        UserError: it holds something else.
    """
    content = read_object(file)
    try:
        return [_run(entry) for entry in content["runs"]]
    except (KeyError, TypeError, ValueError) as error:
        told = f"{file} is no file of curves ({error!r}); `python -m vle_lightning curves` writes them"
        raise UserError(told) from error


def write_file(curves: Sequence[RunCurves], file: Path, limit: int = LIMIT) -> int:
    """Write curves with as many points as fit into the limit.

    Args:
        curves: of all runs.
        file: JSON.
        limit: bytes.

    Returns:
        The bytes of the file.

    Raises:
        UserError: even few points are too many.
    """
    for points in POINTS:
        text = _written([_thinned(run, points) for run in curves])
        if len(text.encode()) <= limit:
            write_text(file, text)
            return len(text.encode())
    raise UserError(f"{file}: {len(curves)} runs are too many for {limit:,} bytes; give fewer runs or --scalars")


def thin(curve: Curve, points: int) -> Curve:
    """Return a curve of at most so many points: means of neighbours, each at its last step."""
    if len(curve.steps) <= points:
        return curve
    steps, values = (np.array_split(np.array(part), points) for part in (curve.steps, curve.values))
    return Curve(tuple(int(part[-1]) for part in steps), tuple(float(part.mean()) for part in values))


def _curve(events: Sequence[Any]) -> Curve:
    found = {int(event.step): float(event.value) for event in events if math.isfinite(event.value)}
    return Curve(tuple(sorted(found)), tuple(found[step] for step in sorted(found)))


def _thinned(run: RunCurves, points: int) -> RunCurves:
    return replace(run, scalars={name: thin(curve, points) for name, curve in run.scalars.items()})


def _written(curves: Sequence[RunCurves]) -> str:
    """Write JSON with a scalar a line: small, and its changes can be read."""
    runs = ",\n".join("".join(_lines(run)) for run in curves)
    return f'{{"runs": [\n{runs}\n]}}\n'


def _lines(run: RunCurves) -> Iterator[str]:
    head = {"run": run.run, "group": run.group, "task": run.task, "seed": run.seed, "commit": run.commit}
    yield json.dumps(head)[:-1] + ', "scalars": {\n'
    for number, (name, curve) in enumerate(run.scalars.items()):
        values = [float(f"{value:.{DIGITS}g}") for value in curve.values]
        content = json.dumps([list(curve.steps), values], separators=(",", ":"))
        yield f"{',' * (number > 0)}{chr(10) * (number > 0)} {json.dumps(name)}:{content}"
    yield "}}"


def _run(entry: Mapping[str, Any]) -> RunCurves:
    scalars = {}
    for name, (steps, values) in entry["scalars"].items():
        if len(steps) != len(values) or not all(map(is_number, [*steps, *values])):
            raise ValueError(name)
        scalars[str(name)] = Curve(tuple(map(int, steps)), tuple(map(float, values)))
    run, group, task = (str(entry[key]) for key in ("run", "group", "task"))
    return RunCurves(run, group, task, entry["seed"], str(entry["commit"]), scalars)
