"""The plot of a study: the deciding score of each row, and what seeds alone make of the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vle_lightning.ablation.outcomes import Outcome, band_of
from vle_lightning.ablation.page import title_of
from vle_lightning.ablation.rows import Axis, Study

DPI, ROW_INCHES = 110, 0.27
INSIDE, OUTSIDE, BAND = "#7d7d7d", "#1f5fa8", "#d9d9d9"


def draw(study: Study, outcomes: Mapping[str, Outcome], file: Path) -> None:
    """Draw one line a row, grouped by axis; the grey band is the baseline's range."""
    count = sum(1 + len(axis.rows) for axis in study.axes)
    figure = Figure(figsize=(8.5, 1.1 + ROW_INCHES * count), layout="constrained")
    axes = figure.add_subplot()
    known = outcomes.get(study.baseline.name)
    deciding = study.report.deciding
    baseline = [100 * value for value in known.scores.get(deciding, ())] if known else []
    if baseline:
        label = f"baseline: {len(baseline)} seed{'s' if len(baseline) > 1 else ''}, lowest to highest"
        axes.axvspan(min(baseline), max(baseline), color=BAND, label=label, zorder=0)
        axes.axvline(statistics.mean(baseline), color="#555555", linewidth=1, label="their mean", zorder=1)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=9)
    names = [name for axis in study.axes for name in (axis.title, *(row.about for row in axis.rows))]
    axes.set_yticks(range(count), names, size=9)
    place = 0
    for axis in study.axes:
        axes.get_yticklabels()[place].set_fontweight("bold")
        if place:
            axes.axhline(place - 0.5, color="#eeeeee", linewidth=1, zorder=0)
        _draw_axis(axes, axis, outcomes, deciding, place + 1)
        place += 1 + len(axis.rows)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(count - 0.4, -0.6)
    axes.margins(x=0.12)
    figure.supxlabel(f"{title_of(deciding)} after one short fine-tuning (%); grey points are within noise", size=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI)


def _draw_axis(axes: Axes, axis: Axis, outcomes: Mapping[str, Outcome], deciding: str, first: int) -> None:
    """Draw the rows of an axis of the study, from one line on downwards: a row's mean, and its seeds' range."""
    band = band_of(axis, outcomes, deciding)
    for line, row in enumerate(axis.rows, start=first):
        values = [100 * v for v in outcomes[row.name].scores.get(deciding, ())] if row.name in outcomes else []
        if not values:
            continue
        is_noise = band is not None and band.holds([value / 100 for value in values])
        colour, mean = INSIDE if is_noise else OUTSIDE, statistics.mean(values)
        axes.plot([min(values), max(values)], [line, line], color=colour, linewidth=2, zorder=2)
        axes.plot(mean, line, "o", color=colour, markeredgecolor="white", zorder=3)
        place = (max(values), line)
        axes.annotate(f"{mean:.1f}", place, xytext=(7, 0), textcoords="offset points", va="center", size=8)
