"""``python -m vle_lightning ablation experiments/ablations/meter_toy.yaml``: all rows of a study, and their tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from vle_lightning.ablation.outcomes import read_outcomes
from vle_lightning.ablation.page import render
from vle_lightning.ablation.plot import draw
from vle_lightning.ablation.report import FINETUNE, STAGES, Report
from vle_lightning.ablation.rows import Row, Study, choose_rows, choose_seeds, read_study
from vle_lightning.ablation.running import Job, cores, jobs_of, run_jobs
from vle_lightning.ablation.scale import at_scale, print_scale
from vle_lightning.curves.command import write_curves
from vle_lightning.curves.record import read_curves
from vle_lightning.errors import Interrupted, UserError
from vle_lightning.files import write_text
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.objectives.base import find_objective

Reader = Callable[[Sequence[str]], Mapping[str, Any]]  # from a command line of fit to all its options
Accumulate = Callable[[int, int, int], int]  # the samplers' rule (see the planner)


@dataclass(frozen=True)
class Options:
    """The command line."""

    study: Path
    rows: list[str] | None
    seeds: list[int] | None
    out: Path | None
    run_root: Path | None
    scale: str | None
    parallel: int


def run_ablation(arguments: Sequence[str], read_settings: Reader, accumulate: Accumulate) -> int:
    """Run the rows of a study that are not finished, and write its page; or count them at real size.

    Args:
        arguments: the command line behind ``ablation``.
        read_settings: what reads an experiment; the command line's, which knows the options of the data as well.
        accumulate: the samplers' rule, for the planner.

    Returns:
        0, or 1 where a row has failed.

    Raises:
        UserError: of anything that a user can fix, before the first run.
    """
    options = parse(arguments)
    study = read_study(options.study)
    rows, seeds = choose_rows(study, options.rows), choose_seeds(study, options.seeds)
    if options.scale is not None:
        counted = at_scale(study, rows, options.scale, read_settings, accumulate)
        return print_scale(study, counted, options.scale)
    for row in rows:
        check_row(study, row, read_settings)
    root = options.run_root or study.report.run_root
    try:
        failed = run_jobs(jobs_of(study, rows, root, seeds), options.parallel)
    except Interrupted:
        write_page(study, root, options.out, [])  # what there is so far
        raise
    write_page(study, root, options.out, failed)
    for name in failed:
        print(f"failed: {name}")
    return 1 if failed else 0


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: an option is unknown or out of range.
    """
    parser = OneSentenceParser("python -m vle_lightning ablation", description=__doc__, allow_abbrev=False)
    parser.add_argument("study", type=Path, help="file of the study")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="these alone (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these alone (default: all)")
    parser.add_argument("--out", type=Path, help=f"the page (default: the study's, or {Report.page})")
    parser.add_argument("--run_root", type=Path, help=f"folder of runs (default: the study's, or {Report.run_root})")
    parser.add_argument("--scale", metavar="PRESET", help="count parameters and FLOPs at this size instead of training")
    parser.add_argument(
        "--parallel", type=int, default=cores(), help="runs at a time (default: the cores, %(default)s)"
    )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.parallel < 1:
        raise UserError(f"--parallel is {options.parallel}; it must be at least 1")
    if options.out is not None and options.out.is_dir():
        raise UserError(f"--out: {options.out} is a folder; name the file to write")
    return options


def write_page(study: Study, root: Path, out: Path | None, failed: Sequence[str]) -> None:
    """Write the page of all finished runs, its picture, and their curves where the study wants them.

    Args:
        study: all rows.
        root: folder of the run folders.
        out: the page; None: where the study says.
        failed: names of the runs that have failed.
    """
    page, curves = out or study.report.page, study.report.curves
    jobs = jobs_of(study, list(study.rows.values()), root)
    outcomes = read_outcomes(study, jobs)
    picture = page.with_name("ablations.png" if page.name == "README.md" else f"{page.stem}.png")
    draw(study, outcomes, picture)
    write_text(page, render(study, outcomes, failed, picture.name))
    print(f"{page}: {len(outcomes)} of {len(study.rows)} rows; {picture}")
    if curves is not None:
        write_learning(study, jobs, curves if out is None else out.with_suffix(".curves"))


def write_learning(study: Study, jobs: Sequence[Job], out: Path) -> None:
    """Write the learning curves of all finished runs, of the scores in the tables and of the losses."""
    wanted = [name for score in (*study.report.scores, "loss") for name in (f"train/{score}", f"val/{score}")]
    done = [job for job in jobs if job.is_finished]
    curves = [replace(read_curves(job.folder.path, wanted), group=job.row.name) for job in done]
    if curves:
        print(f"{write_curves(curves, out)}: {len(curves)} runs")


def check_row(study: Study, row: Row, read_settings: Reader) -> None:
    """Make sure that the experiments of a row can be read, and its model be built; no data are read.

    Raises:
        UserError: names the row and the option.
    """
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES if row.is_pretrained else (FINETUNE,):
            file = Path(folder) / f"{stage}.yaml"
            file.write_text(yaml.safe_dump(row.options[stage]), encoding="utf-8")
            try:
                settings = read_settings(["--config", str(file)])
                with torch.device("meta"):
                    read_architecture(settings["model"]["architecture"]).build()
                for objective in settings["model"].get("objectives") or ():
                    find_objective(objective)
            except UserError as error:
                told = str(error).replace(f"{file}: ", "")
                raise UserError(f"{study.file}: row {row.name}, {stage}: {told}") from error
