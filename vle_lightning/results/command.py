"""All runs that exist beside the published numbers, on one page: ``python -m vle_lightning results``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vle_lightning.curves.command import write_curves
from vle_lightning.curves.record import RunCurves, read_curves
from vle_lightning.errors import UserError
from vle_lightning.files import write_text
from vle_lightning.results.hardware import read_hardware
from vle_lightning.results.page import render
from vle_lightning.results.runs import Run, read_published, read_runs


def run_results(arguments: Sequence[str]) -> int:
    """Gather all runs under the run roots and write the page.

    Args:
        arguments: the command line behind ``results``.

    Raises:
        UserError: there is no such folder of runs, or the published numbers cannot be read.
    """
    parser = argparse.ArgumentParser("python -m vle_lightning results", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--run_root", type=Path, nargs="+", default=[Path("checkpoints")], help="folders of run folders"
    )
    parser.add_argument("--out", type=Path, default=Path("experiments/README.md"), help="the page")
    parser.add_argument("--published", type=Path, default=Path("experiments/published.json"), help="others' numbers")
    parser.add_argument(
        "--hardware", type=Path, default=Path("experiments/hardware"), help="folder of what `make gpu-check` wrote"
    )
    parser.add_argument("--curves", type=Path, metavar="FOLDER", help="write each task's learning curves here too")
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        raise UserError(f"--out: {options.out} is a folder; name the file to write")
    published = read_published(options.published)
    runs, problems = read_runs(options.run_root)
    hardware, faults = read_hardware(options.hardware)
    problems += faults
    if options.curves is not None:
        problems += write_task_curves(runs, options.run_root, options.curves)
    write_text(options.out, render(runs, published, problems, hardware))
    for problem in problems:
        print(problem)
    print(f"{options.out}: {len(runs)} runs, {len(published)} published results")
    return 0


def write_task_curves(runs: Sequence[Run], roots: Sequence[Path], folder: Path) -> list[str]:
    """Write the curves of the runs of each task, TASK.json and TASK.png.

    Args:
        runs: of the page; studies, which have no record, are left out.
        roots: folders of run folders.
        folder: to write to.

    Returns:
        What is wrong with runs that are left out.
    """
    problems: list[str] = []
    by_task: dict[str, list[RunCurves]] = {}
    for run in runs:
        for place in (root / run.name for root in roots if run.record and (root / run.name).is_dir()):
            try:
                curves = read_curves(place)
            except UserError as error:
                problems.append(f"no curves of {run.name}: {error}")
            else:
                by_task.setdefault(run.task, []).append(curves)
    for task, found in by_task.items():
        print(f"{write_curves(found, folder / task)}: {len(found)} runs")
    return problems
