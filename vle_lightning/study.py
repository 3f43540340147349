"""A study: experiments, the same ones without the image or the text and from scratch, and all their scores in one file.

``python -m vle_lightning study A.yaml B.yaml --out checkpoints/vcr-toy --blind --scratch``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vle_lightning.errors import UserError
from vle_lightning.files import write_json
from vle_lightning.metrics.columns import mean, mean_by
from vle_lightning.parsing import read_experiment
from vle_lightning.run import print_scores
from vle_lightning.run_folder import RunFolder

Metrics = Mapping[str, float]
Row = Mapping[str, object]


class Variant(NamedTuple):
    """One way to run an experiment."""

    split: str  # what its validation scores are called in the study: val, blind, blind_text or scratch
    suffix: str  # of the run's name
    options: tuple[str, ...]


PLAIN = Variant("val", "", ())
BLIND = Variant("blind", "-blind", ("--model.blind", "image"))
BLIND_TEXT = Variant("blind_text", "-blind-text", ("--model.blind", "text"))
SCRATCH = Variant("scratch", "-scratch", ("--model.init", "null"))


class Joint(NamedTuple):
    """A score of questions that several runs must all get right."""

    name: str
    parts: tuple[str, ...]  # the score that tells whose predictions a run's are


JOINTS = (Joint("q2ar", ("q2a", "qa2r")),)  # VCR's third score (arXiv 1811.10830)


class Joined(NamedTuple):
    """What the parts of a joint score made of each question."""

    split: str
    joint: Joint
    questions: Sequence[Row]


class Run(NamedTuple):
    """A finished run of a study."""

    name: str
    split: str
    metrics: Metrics
    predictions: tuple[Row, ...]


def run_study(arguments: Sequence[str]) -> int:
    """Run every experiment in every variant, gather their scores, and print them.

    Beside ``metrics.json`` lies, for each joint score, what each part made of each question: ``q2ar.json``, and
    ``blind_q2ar.json`` of the blind runs.

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
    for variant, wanted in ((BLIND, options.blind), (BLIND_TEXT, options.blind_text)):
        plan += [(experiment, variant) for experiment in experiments] if wanted else []
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
    joined = list(join_runs(runs))
    for split, joint, questions in joined:
        write_json(options.out / f"{joint.name if split == PLAIN.split else f'{split}_{joint.name}'}.json", questions)
    file = options.out / "metrics.json"
    write_json(file, gather(runs, joined))
    print_scores(file)
    return 0


def gather(runs: Sequence[Run], joined: Iterable[Joined] = ()) -> dict[str, float]:
    """Lay the scores of all runs side by side.

    ``val/x`` becomes ``blind/x`` or ``scratch/x`` by the run's variant, ``test/x`` becomes ``blind_test/x`` or
    ``scratch_test/x``; ceilings and floors stay as they are.
    A name that two runs of one variant give different values stands there once for each, as ``val/<run>/x``.

    Args:
        runs: in any order.
        joined: as ``join_runs`` returns it, for the joint scores.
    """
    named = [(run, _renamed(name, run.split), value) for run in runs for name, value in run.metrics.items()]
    values: dict[str, set[float]] = {}
    for _, name, value in named:
        values.setdefault(name, set()).add(value)
    gathered = {}
    for run, name, value in named:
        split, score = name.split("/", 1)
        gathered[name if len(values[name]) == 1 else f"{split}/{run.name}/{score}"] = value
    for split, joint, questions in joined:
        gathered |= {f"{split}/{name}": value for name, value in joint_scores(joint.name, questions).items()}
    return dict(sorted(gathered.items()))


def join(joint: Joint, parts: Sequence[Iterable[Row]]) -> list[dict[str, object]]:
    """Lay what each part made of a question side by side; questions that one part could not use are left out, and told.

    Args:
        joint: names the parts and their joint score.
        parts: rows with id, question_id, prediction, target and family; one list for each part.

    Returns:
        For each question its ids and family, for each part whether it was right, and whether all were.

    Raises:
        UserError: the parts have no question in common.
    """
    tables = [{str(row["id"]): row for row in part if row["target"] is not None} for part in parts]
    common = set(tables[0]).intersection(*tables)
    if not common and any(tables):
        raise UserError(f"{joint.name}: the runs predict different questions; give them the same data.root and split")
    if left_out := set().union(*tables) - common:
        ids = f"{sorted(left_out)[:5]}{', ...' if len(left_out) > 5 else ''}"
        print(f"{joint.name}: {len(left_out)} questions that not all runs could use are left out: {ids}")
    rows: list[dict[str, object]] = []
    for question in sorted(common):
        answers = [table[question] for table in tables]
        right = [answer["prediction"] == answer["target"] for answer in answers]
        known = {key: answers[0].get(key) for key in ("question_id", "family")}
        rows.append({"id": question, **known, **dict(zip(joint.parts, right, strict=True)), joint.name: all(right)})
    return rows


def joint_scores(name: str, questions: Sequence[Row]) -> dict[str, float]:
    """Return the share of questions that every part gets right, overall and for each family.

    Args:
        name: of the score.
        questions: as ``join`` returns them.
    """
    if not questions:
        return {}
    right = [float(bool(row[name])) for row in questions]
    families = [str(row["family"]) if row["family"] else None for row in questions]
    return {name: mean(right), **{f"{name}_{family}": share for family, share in mean_by(families, right).items()}}


def join_runs(runs: Sequence[Run]) -> Iterator[Joined]:
    """Join the predictions of each variant's runs, for each joint score that has all its parts."""
    for split in dict.fromkeys(run.split for run in runs):
        for joint in JOINTS:
            holders = [[r for r in runs if r.split == split and f"val/{part}" in r.metrics] for part in joint.parts]
            if all(holders):
                yield Joined(split, joint, join(joint, [holder[0].predictions for holder in holders]))


def _renamed(name: str, split: str) -> str:
    stage, _, score = name.partition("/")
    own_names = {"val": split, "test": "test" if split == PLAIN.split else f"{split}_test"}
    return f"{own_names.get(stage, stage)}/{score}"


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
    parser.add_argument("--blind-text", action="store_true", help="run each again without the text")
    parser.add_argument("--scratch", action="store_true", help="run the first again without a pre-trained checkpoint")
    return parser
