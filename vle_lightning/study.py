"""A study: experiments, the same ones without the image and from scratch, and all their scores in one file.

``python -m vle_lightning study A.yaml B.yaml --out checkpoints/vcr-toy --blind --scratch``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vle_lightning.callbacks.recorder import write_json
from vle_lightning.errors import UserError
from vle_lightning.parsing import read_experiment
from vle_lightning.run import RunFolder, print_scores

Metrics = Mapping[str, float]


class Variant(NamedTuple):
    """One way to run an experiment."""

    split: str  # what its validation scores are called in the study: val, blind or scratch
    suffix: str  # of the run's name
    options: tuple[str, ...]


PLAIN = Variant("val", "", ())
BLIND = Variant("blind", "-blind", ("--model.blind", "image"))
SCRATCH = Variant("scratch", "-scratch", ("--model.init", "null"))


class Joint(NamedTuple):
    """A score of questions that several runs must all get right."""

    name: str
    parts: tuple[str, ...]  # the score that tells whose predictions a run's are


JOINTS = (Joint("q2ar", ("q2a", "qa2r")),)  # VCR's third score (arXiv 1811.10830)


class Run(NamedTuple):
    """A finished run of a study."""

    name: str
    split: str
    metrics: Metrics
    predictions: tuple[Mapping[str, object], ...]


def run_study(arguments: Sequence[str]) -> int:
    """Run every experiment in every variant, gather their scores, and print them.

    Args:
        arguments: the command line behind ``study``; what is unknown here goes to each run.

    Returns:
        The exit code of the first run that fails, or 0.

    Raises:
        UserError: an experiment file is missing, or its runs cannot be told apart.
    """
    options, passed_on = _parser().parse_known_args(arguments)
    if any(argument.startswith("--run_name") for argument in passed_on):
        raise UserError("study: --run_name would give all runs one name; leave it out")
    experiments = [read_experiment(["--config", str(file)]) for file in options.experiments]
    plan = [(experiment, PLAIN) for experiment in experiments]
    plan += [(experiments[0], SCRATCH)] if options.scratch else []
    plan += [(experiment, BLIND) for experiment in experiments] if options.blind else []
    runs = []
    for number, (experiment, variant) in enumerate(plan, start=1):
        name = experiment.run_name + variant.suffix
        print(f"[{number}/{len(plan)}] {name}", flush=True)
        command = [sys.executable, "-m", "vle_lightning", "fit", "--config", str(experiment.files[0])]
        command += [*passed_on, "--run_name", name, "--run_root", str(options.run_root), *variant.options]
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
        runs.append(_read_run(RunFolder(options.run_root / name), variant.split))
    file = options.out / "metrics.json"
    write_json(file, gather(runs))
    print_scores(file)
    return 0


def gather(runs: Sequence[Run]) -> dict[str, float]:
    """Lay the scores of all runs side by side.

    ``val/x`` becomes ``blind/x`` or ``scratch/x`` by the run's variant; ceilings and floors stay as they are.
    A name that two runs of one variant give different values stands there once for each, as ``val/<run>/x``.
    """
    named = [(run, _renamed(name, run.split), value) for run in runs for name, value in run.metrics.items()]
    values: dict[str, set[float]] = {}
    for _, name, value in named:
        values.setdefault(name, set()).add(value)
    gathered = {}
    for run, name, value in named:
        split, score = name.split("/", 1)
        gathered[name if len(values[name]) == 1 else f"{split}/{run.name}/{score}"] = value
    return dict(sorted((gathered | _joint_scores(runs)).items()))


def joint_scores(name: str, parts: Sequence[Iterable[Mapping[str, object]]]) -> dict[str, float]:
    """Return the share of questions that every part gets right, overall and for each family.

    Questions that one part could not use are left out of all, and told.

    Args:
        name: of the score.
        parts: rows with id, prediction, target and family; one list for each part.

    Raises:
        UserError: the parts have no question in common.
    """
    tables = [{str(row["id"]): row for row in part if row["target"] is not None} for part in parts]
    common = set(tables[0]).intersection(*tables)
    if not common and any(tables):
        raise UserError(f"{name}: the runs predict different questions; give them the same data.root and split")
    if left_out := set().union(*tables) - common:
        print(f"{name}: {len(left_out)} questions that not all runs could use are left out: {sorted(left_out)[:5]}")
    groups: dict[str, list[bool]] = {}
    for question, row in ((key, row) for key, row in tables[0].items() if key in common):
        right = all(table[question]["prediction"] == table[question]["target"] for table in tables)
        for group in (name, f"{name}_{row['family']}") if row.get("family") else (name,):
            groups.setdefault(group, []).append(right)
    return {group: sum(rows) / len(rows) for group, rows in groups.items()}


def _joint_scores(runs: Sequence[Run]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for split in dict.fromkeys(run.split for run in runs):
        for joint in JOINTS:
            holders = [[r for r in runs if r.split == split and f"val/{part}" in r.metrics] for part in joint.parts]
            if all(holders):
                parts = [holder[0].predictions for holder in holders]
                scores |= {f"{split}/{name}": value for name, value in joint_scores(joint.name, parts).items()}
    return scores


def _renamed(name: str, split: str) -> str:
    return f"{split}/{name.removeprefix('val/')}" if name.startswith("val/") else name


def _read_run(folder: RunFolder, split: str) -> Run:
    predictions = folder.path / "predictions.json"
    rows = json.loads(predictions.read_text()) if predictions.exists() else []
    return Run(folder.path.name, split, json.loads(folder.metrics.read_text()), tuple(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m vle_lightning study", description=__doc__, allow_abbrev=False)
    parser.add_argument("experiments", nargs="+", type=Path, help="experiment files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the gathered metrics.json")
    parser.add_argument("--run_root", type=Path, default=Path("checkpoints"), help="folder of the run folders")
    parser.add_argument("--blind", action="store_true", help="run each again without the image")
    parser.add_argument("--scratch", action="store_true", help="run the first again without a pre-trained checkpoint")
    return parser
