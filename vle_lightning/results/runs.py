"""Reading run folders and published numbers; what is broken or not complete is named, never dropped in silence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vle_lightning.errors import UserError
from vle_lightning.files import is_number
from vle_lightning.records import TASKS, split_of

TRACES = ("run.json", "config.yaml", "best.ckpt", "last.ckpt")


class Run(NamedTuple):
    """A run folder, or that of a study, which has scores of several runs and no record."""

    name: str
    task: str
    metrics: Mapping[str, float]
    record: Mapping[str, Any]

    def split_of(self, score: str) -> str | None:
        """Return the split that a score is reported on: test where there is one."""
        return split_of(score, self.metrics)

    @property
    def conditions(self) -> tuple[object, object]:
        """Return what must be equal for a comparison: steps and data."""
        return self.record.get("steps"), self.record.get("data")


class Published(NamedTuple):
    """What others report of a system, in percent."""

    task: str
    system: str
    data: str
    split: str
    scores: Mapping[str, float]
    source: str


def read_published(file: Path) -> list[Published]:
    """Read the published numbers.

    Raises:
        UserError: the file is missing or broken, or an entry lacks a field.
    """
    try:
        entries = [Published(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--published: {file} must be a JSON list of published results ({error})") from error
    for entry in entries:
        if not entry.source or not isinstance(entry.scores, dict) or entry.task not in TASKS:
            raise UserError(f"--published: {file}: {entry.system} on {entry.data} needs a known task, scores, a source")
    return entries


def read_runs(roots: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read every folder of the run roots that holds a run, by name.

    Returns:
        The runs, and what is wrong with folders that are left out or not complete.

    Raises:
        UserError: a run root is not a folder.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for root in roots:
        if not root.is_dir():
            raise UserError(f"--run_root: there is no folder {root}; run an experiment first (make help)")
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            try:
                run, problem = _read_run(folder)
            except (OSError, ValueError) as error:
                problems.append(f"{folder.name} is left out: {error}")
                continue
            runs += [run] if run else []
            problems += [f"{folder.name} {problem}"] if problem else []
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--run_root: several folders have a run {', '.join(twice)}; gather them apart (--out)")
    return runs, problems


def _read_run(folder: Path) -> tuple[Run | None, str | None]:
    if not (folder / "metrics.json").exists():
        begun = any((folder / name).exists() for name in TRACES)
        return None, "is left out: it has no metrics.json, its run has not ended" if begun else None
    metrics = {name: value for name, value in _read_object(folder / "metrics.json").items() if value is not None}
    if wrong := [name for name, value in metrics.items() if not is_number(value)]:
        raise ValueError(f"metrics.json: {wrong[0]} is not a number")
    if (folder / "run.json").exists():
        record = _read_object(folder / "run.json")
        data, commit = record.get("data", []), record.get("commit")
        if not isinstance(data, list) or not all(map(_is_manifest, data)):
            raise ValueError("run.json: data must list manifests by path, ROOT/SOURCE/SPLIT/manifest.json")
        if not isinstance(commit, str | None):
            raise ValueError("run.json: commit must be a text or null")
        return Run(folder.name, str(record.get("task") or _task_of(folder.name)), metrics, record), None
    told = "has no run.json: a study, or a run whose steps, seed and commit are not known"
    return Run(folder.name, _task_of(folder.name), metrics, {}), told


def _is_manifest(row: object) -> bool:
    path = row.get("path") if isinstance(row, dict) else None
    return isinstance(path, str) and len(PurePosixPath(path).parts) >= 3


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no names and values")
    return content


def _task_of(name: str) -> str:
    fits = [task for task in TASKS if name == task or name.startswith(f"{task}-")]
    if not fits:
        raise ValueError(f"neither run.json nor its name says its task; known are {', '.join(TASKS)}")
    return fits[0]
