"""The page of a study: one table an axis, the baseline first; differences that seeds alone make are named."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vle_lightning.ablation.outcomes import DECIDING, SCORES, Band, Outcome, band_of
from vle_lightning.ablation.rows import Axis, Row, Study

MILLION, GIGA = 1e6, 1e9
NOISE = "within noise"
COSTS = ("parameters (M)", "GFLOPs a pair", "s/step")
HEAD = """# Ablations: {title}

This page is generated; what is changed by hand is lost.

```sh
python -m vle_lightning ablation {file}  # goes on where it stopped
python -m vle_lightning ablation {file} --rows {example}  # one row alone
python -m vle_lightning ablation {file} --scale vle-base  # real size, nothing is trained
```

Each row changes the baseline in one place, is pre-trained for {pretrain} steps and then fine-tuned on VQA for
{finetune} steps, always in the same way. The baseline is run under {seeds} seeds: its numbers are their mean and, in
brackets, their lowest and highest. A row is run under one seed; behind its score stands the difference from the
baseline's mean, or *within noise* where the score lies between the baseline's lowest and highest. Where a table is
compared with a row of its own, in bold, differences up to the width of the baseline's range are within noise.

*parameters*: of the backbone, without heads. *GFLOPs a pair*: of pre-training, forward and backward, as the run counted
them. *s/step*: of pre-training, in the fastest stretch of a run, for other jobs slow it down; as many runs at a time as
there were cores. Scores are percentages on unseen scenes. Commit of the runs: {commits}.
"""


def render(study: Study, outcomes: Mapping[str, Outcome], failed: Sequence[str], picture: str) -> str:
    """Write the page.

    Args:
        study: all rows.
        outcomes: of the finished rows, by name.
        failed: names of the runs that have failed.
        picture: name of the plot beside the page.
    """
    commits = sorted({commit for outcome in outcomes.values() for commit in outcome.commits})
    head = HEAD.format(
        title=study.file.stem,
        file=study.file,
        example=list(study.rows)[-1],
        seeds=len(study.seeds),
        commits=", ".join(f"`{commit}`" for commit in commits) or "none",
        **{stage: _steps(study.baseline, stage) for stage in study.baseline.options},
    )
    references = next((outcome.references for outcome in outcomes.values()), {})
    parts = [head, f"![VQA accuracy of each row, and the range of the baseline]({picture})\n"]
    for axis in study.axes:
        lines = [_line(_columns(references)), _line(["---", "---", *["---:"] * (len(COSTS) + len(SCORES))])]
        lines += [_line(cells) for cells in _rows(axis, study.baseline, outcomes)]
        parts.append("\n".join([f"## {axis.title}", "", *lines]) + "\n")
    if study.limits:
        parts.append("\n".join(["## Limits", "", *(f"- {limit}" for limit in study.limits)]) + "\n")
    if failed:
        parts.append("\n".join(["## Failed", "", *(f"- {name}" for name in failed)]) + "\n")
    return "\n".join(parts)


def judge(value: float, band: Band | None) -> str:
    """Say how a score, a share in [0, 1], differs in points: not at all where seeds alone make such a difference."""
    if band is None:
        return ""
    return NOISE if band.holds(value) else f"{100 * (value - band.reference):+.1f}"


def _columns(references: Mapping[str, float]) -> Iterator[str]:
    yield from ("row", "what", *COSTS)
    for name in SCORES:
        bounds = [
            f"{kind} {100 * references[f'{kind}/{name}']:.1f}"
            for kind in ("floor", "ceiling")
            if f"{kind}/{name}" in references
        ]
        yield f"{name} ({', '.join(bounds)})" if bounds else name


def _rows(axis: Axis, baseline: Row, outcomes: Mapping[str, Outcome]) -> Iterator[list[str]]:
    if axis.reference == baseline.name:
        own = outcomes.get(baseline.name)
        yield [f"**{baseline.name}**", axis.baseline, *_costs(own), *(_spread(own, name) for name in SCORES)]
    for row in axis.rows:
        outcome = outcomes.get(row.name)
        if row.name == axis.reference:
            yield [f"**{row.name}**", row.about, *_costs(outcome), *(_spread(outcome, name) for name in SCORES)]
        else:
            scores = (_score(outcome, band_of(axis, outcomes, name), name) for name in SCORES)
            yield [row.name, row.about, *_costs(outcome), *scores]


def _costs(outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return ["not run", "", ""]
    flops = "" if outcome.flops is None else f"{outcome.flops / GIGA:.2f}"
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.2f}"
    return [f"{outcome.parameters / MILLION:.2f}", flops, seconds]


def _spread(outcome: Outcome | None, name: str) -> str:
    values = () if outcome is None else outcome.scores.get(name, ())
    if not values:
        return ""
    bounds = f" [{100 * min(values):.1f}, {100 * max(values):.1f}]" if len(values) > 1 else ""
    return f"**{100 * statistics.mean(values):.1f}**{bounds}"


def _score(outcome: Outcome | None, band: Band | None, name: str) -> str:
    values = () if outcome is None else outcome.scores.get(name, ())
    if not values:
        return ""
    told = judge(values[0], band)
    shown = f"{100 * values[0]:.1f}"
    shown = f"**{shown}**" if name == DECIDING and band is not None and told != NOISE else shown
    return f"{shown} ({told})" if told else shown


def _steps(row: Row, stage: str) -> int:
    return int(row.options[stage].get("trainer", {}).get("max_steps", 0))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
