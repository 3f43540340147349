"""One picture of learning curves: a panel for each score, a colour for each group of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vle_lightning.curves.record import Curve, RunCurves

COLUMNS, PANEL, DPI = 4, (3.6, 2.6), 80  # inches
PALETTE = 128  # colours
TRAIN = "train"
COLOURS = colormaps["tab20"].colors  # type: ignore[attr-defined]
ORDER = (*range(0, 20, 2), *range(1, 20, 2))  # of these: strong ones first


def draw(curves: Sequence[RunCurves], file: Path) -> None:
    """Draw training as lines and evaluation as points; of seeds, the mean and the range."""
    panels = panels_of(curves)
    groups = list(dict.fromkeys(run.group for run in curves))
    colours = {group: COLOURS[ORDER[number % len(ORDER)]] for number, group in enumerate(groups)}
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.3 + 0.25 * -(-len(groups) // columns)), dpi=DPI)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for place in grid[len(panels) :]:
        place.set_visible(False)
    for axes, ((task, score), names) in zip(grid, panels.items(), strict=False):
        for group in groups:
            of_group = [run for run in curves if run.group == group and run.task == task]
            for name in names:
                found = [run.scalars[name] for run in of_group if name in run.scalars]
                _draw_group(axes, found, colours[group], name.startswith(f"{TRAIN}/"))
        axes.set_title(f"{task}: {score}", size=10)
        axes.tick_params(labelsize=8)
        axes.grid(color="#eeeeee")
    for group, colour in colours.items():
        grid[0].plot([], [], color=colour, linewidth=3, label=group)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    figure.suptitle("lines: training, neighbours averaged; points: unseen samples; shades and bars: seeds", size=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(pixels[..., :3])
    picture.quantize(PALETTE).save(file, optimize=True)  # a third of the bytes, to be committed


def panels_of(curves: Sequence[RunCurves]) -> dict[tuple[str, str], list[str]]:
    """Return the scalars of each panel, by task and score: those of all splits share one."""
    panels: dict[tuple[str, str], list[str]] = {}
    for run in curves:
        for name in run.scalars:
            names = panels.setdefault((run.task, name.split("/", 1)[-1]), [])
            if name not in names:
                names.append(name)
    return panels


def merge_seeds(curves: Sequence[Curve]) -> Mapping[int, list[float]]:
    """Return the values of all curves by step, in order; where their steps differ, each curve is interpolated.

    Steps beyond the end of the shortest curve are left out.
    """
    first, last = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    steps = sorted({step for curve in curves for step in curve.steps if first <= step <= last})
    values = [np.interp(steps, curve.steps, curve.values) for curve in curves]
    return dict(zip(steps, np.array(values).T.tolist(), strict=True))


def _draw_group(axes: Axes, curves: Sequence[Curve], colour: Sequence[float], is_train: bool) -> None:
    if not curves:
        return
    merged = merge_seeds(curves)
    if not merged:  # the seeds have no step in common
        return
    steps, values = list(merged), np.array(list(merged.values()))
    mean, low, high = values.mean(1), values.min(1), values.max(1)
    if is_train:
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=1)
    else:
        axes.errorbar(steps, mean, [mean - low, high - mean], color=colour, fmt="o", markersize=4, linewidth=1.5)
