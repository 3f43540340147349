"""``python -m vle_lightning curves RUN... --out experiments/curves/NAME``: curves of runs in a file and a picture.

A file of curves may stand in the place of a run folder: one's own run over a committed curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vle_lightning.curves.plot import draw
from vle_lightning.curves.record import LIMIT, RunCurves, read_curves, read_file, write_file
from vle_lightning.errors import UserError
from vle_lightning.inference.commands import OneSentenceParser

KILOBYTE = 1000


def run_curves(arguments: Sequence[str]) -> int:
    """Gather the curves of runs and of files, write them and draw them.

    Args:
        arguments: the command line behind ``curves``.

    Raises:
        UserError: of anything that a user can fix.
    """
    parser = OneSentenceParser("python -m vle_lightning curves", description=__doc__, allow_abbrev=False)
    parser.add_argument("sources", nargs="+", type=Path, metavar="RUN", help="run folders, and files of curves")
    parser.add_argument("--out", type=Path, required=True, help="files to write, without their endings .json and .png")
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="of files, these groups or runs alone")
    parser.add_argument(
        "--scalars", nargs="+", metavar="NAME", help="TensorBoard's names, with * (default: loss and scores)"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help="bytes of the JSON file (default: %(default)s)")
    options = parser.parse_args(arguments)
    curves = gather(options.sources, options.groups, options.scalars)
    written = write_curves(curves, options.out, options.limit)
    print(f"{written}: {len(curves)} runs")
    return 0


def gather(
    sources: Sequence[Path], groups: Sequence[str] | None = None, scalars: Sequence[str] | None = None
) -> list[RunCurves]:
    """Read run folders and files of curves; a second run of one name gets a number.

    Args:
        sources: in the order in which they are drawn.
        groups: of files, these groups or runs alone.
        scalars: of run folders, these alone.

    Raises:
        UserError: a source cannot be read, or no file has such a group.
    """
    curves: list[RunCurves] = []
    found: set[str] = set()
    for source in sources:
        if source.is_dir():
            curves.append(_renamed(read_curves(source, scalars), {run.group for run in curves}))
            continue
        if not source.is_file():
            raise UserError(f"{source} is neither a run folder nor a file of curves")
        for run in read_file(source):
            if groups is None or {run.group, run.run} & set(groups):
                curves.append(run)
            found |= {run.group, run.run}
    if unknown := [group for group in groups or () if group not in found]:
        raise UserError(f"--groups: there is no {', '.join(unknown)}; there are {', '.join(sorted(found)) or 'none'}")
    if not curves:
        raise UserError(f"{', '.join(map(str, sources))}: there are no curves in it")
    return curves


def write_curves(curves: Sequence[RunCurves], out: Path, limit: int = LIMIT) -> str:
    """Write the JSON file and the picture; return what was written, in words."""
    file, picture = (out.with_name(f"{out.name}{ending}") for ending in (".json", ".png"))
    size = write_file(curves, file, limit)
    draw(read_file(file), picture)  # what others will see
    return f"{file} ({size / KILOBYTE:.0f} KB), {picture}"


def _renamed(run: RunCurves, taken: set[str]) -> RunCurves:
    names = (run.group, *(f"{run.group} ({number})" for number in range(2, len(taken) + 3)))
    return replace(run, group=next(name for name in names if name not in taken))
