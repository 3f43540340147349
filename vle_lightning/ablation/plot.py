"""The plot of a study: the deciding score of each row, and what seeds alone make of the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from vle_lightning.ablation.outcomes import DECIDING, Outcome
from vle_lightning.ablation.rows import Study

DPI, ROW_INCHES = 110, 0.27
INSIDE, OUTSIDE, BAND = "#9a9a9a", "#1f5fa8", "#d9d9d9"


def draw(study: Study, outcomes: Mapping[str, Outcome], file: Path) -> None:
    """Draw one line a row, grouped by axis; the grey band is the baseline's range."""
    lines: list[tuple[str, float | None]] = []
    heads: list[int] = []
    for axis in study.axes:
        heads.append(len(lines))
        lines.append((axis.title, None))
        for row in axis.rows:
            values = outcomes[row.name].scores.get(DECIDING, ()) if row.name in outcomes else ()
            lines.append((row.about, 100 * values[0] if values else None))
    figure = Figure(figsize=(8.5, 1.1 + ROW_INCHES * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    known = outcomes.get(study.baseline.name)
    baseline = [100 * value for value in known.scores.get(DECIDING, ())] if known else []
    if baseline:
        label = f"baseline: {len(baseline)} seed{'s' if len(baseline) > 1 else ''}, lowest to highest"
        axes.axvspan(min(baseline), max(baseline), color=BAND, label=label, zorder=0)
        axes.axvline(statistics.mean(baseline), color="#555555", linewidth=1, label="their mean", zorder=1)
    for place, (_, value) in enumerate(lines):
        if value is not None:
            is_noise = bool(baseline) and min(baseline) <= value <= max(baseline)
            axes.plot(value, place, "o", color=INSIDE if is_noise else OUTSIDE, markeredgecolor="white", zorder=3)
            axes.annotate(
                f"{value:.1f}", (value, place), xytext=(7, 0), textcoords="offset points", va="center", size=8
            )
    axes.set_yticks(range(len(lines)), [name for name, _ in lines], size=9)
    for place in heads:
        axes.get_yticklabels()[place].set_fontweight("bold")
        if place:
            axes.axhline(place - 0.5, color="#eeeeee", linewidth=1, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel("VQA accuracy after one short fine-tuning (%)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if baseline:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI)
