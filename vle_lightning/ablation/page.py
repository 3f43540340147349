"""The page of a study: one table an axis, the baseline first; differences that seeds alone make are named."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vle_lightning.ablation.outcomes import Band, Outcome, band_of
from vle_lightning.ablation.report import COSTS, FINETUNE
from vle_lightning.ablation.rows import ALL, FIRST, Axis, Row, Study

MILLION, GIGA = 1e6, 1e9
NOISE = "within noise"
TITLES = {"vqa_accuracy": "VQA accuracy", "q2a": "VCR Q->A", "qa2r": "VCR QA->R"}
WIDTH = 120  # characters of a line
HEAD = """# Ablations: {title}

This page is generated; what is changed by hand is lost.

```sh
python -m vle_lightning ablation {file}  # goes on where it stopped
python -m vle_lightning ablation {file} --rows {example}  # one row alone
python -m vle_lightning ablation {file} --scale vle-base  # real size, nothing is trained
```

{compared}

{columns}
"""
ABOUT = """Each row changes the baseline in one place, is pre-trained for {pretrain} steps and then fine-tuned on
{task} for {finetune} steps, always in the same way."""
COMPARED = {  # by which rows run under all seeds
    FIRST: """The baseline is run under {seeds} seeds: its numbers are their mean and, in
brackets, their lowest and highest. A row is run under one seed; behind its score stands the difference from the
baseline's mean, or *within noise* where the score lies between the baseline's lowest and highest. Where a table is
compared with a row of its own, in bold, differences up to the width of the baseline's range are within noise.""",
    ALL: """Rows that change fine-tuning alone start from the baseline's pre-training of the same seed. Each row is run
under {seeds} seeds: a number is their mean and, in brackets, their lowest and highest. Behind it stands the difference
from the baseline's mean, or *within noise* where the two ranges overlap.""",
}


def render(study: Study, outcomes: Mapping[str, Outcome], failed: Sequence[str], picture: str) -> str:
    """Write the page.

    Args:
        study: all rows.
        outcomes: of the finished rows, by name.
        failed: names of the runs that have failed.
        picture: name of the plot beside the page.
    """
    commits = sorted({commit for outcome in outcomes.values() for commit in outcome.commits})
    told = f"Scores are percentages on unseen scenes. Commit of the runs: {', '.join(map(_code, commits)) or 'none'}."
    head = HEAD.format(
        title=study.file.stem,
        file=study.file,
        example=list(study.rows)[-1],
        compared=_wrap(_compared(study)),
        columns=_wrap(" ".join([*(COSTS[name][1] for name in study.report.costs), told])),
    )
    references = {key: value for outcome in outcomes.values() for key, value in outcome.references.items()}
    parts = [head, f"![{title_of(study.report.deciding)} of each row, and the range of the baseline]({picture})\n"]
    count = len(study.report.costs) + len(study.report.scores)
    for axis in study.axes:
        lines = [_line(_columns(study, references)), _line(["---", "---", *["---:"] * count])]
        lines += [_line(cells) for cells in _rows(axis, study, outcomes)]
        parts.append("\n".join([f"## {axis.title}", "", *lines]) + "\n")
    if study.limits:
        parts.append("\n".join(["## Limits", "", *(f"- {limit}" for limit in study.limits)]) + "\n")
    if failed:
        parts.append("\n".join(["## Failed", "", *(f"- {name}" for name in failed)]) + "\n")
    return "\n".join(parts)


def judge(values: Sequence[float], band: Band | None) -> str:
    """Say how a score differs in points: not at all where seeds alone make such a difference.

    Args:
        values: shares in [0, 1], one for each seed.
        band: what they are compared with.
    """
    if band is None:
        return ""
    return NOISE if band.holds(values) else f"{100 * (statistics.mean(values) - band.reference):+.1f}"


def title_of(score: str) -> str:
    """Return how a score is called in prose."""
    return TITLES.get(score, score)


def _compared(study: Study) -> str:
    steps = {stage: _steps(study.baseline, stage) for stage in study.baseline.options}
    task = str(study.baseline.options[FINETUNE].get("task", "the task")).upper()
    return f"{ABOUT} {COMPARED[study.row_seeds]}".format(task=task, seeds=len(study.seeds), **steps)


def _columns(study: Study, references: Mapping[str, float]) -> Iterator[str]:
    yield from ("row", "what", *(COSTS[name][0] for name in study.report.costs))
    for name in study.report.scores:
        known = {kind: _reference(references, kind, name) for kind in ("floor", "ceiling")}
        bounds = [f"{kind} {100 * value:.1f}" for kind, value in known.items() if value is not None]
        yield f"{name} ({', '.join(bounds)})" if bounds else name


def _reference(references: Mapping[str, float], kind: str, name: str) -> float | None:
    """Return a score's floor or ceiling; a family of questions ("q2a_place") has that of all of them."""
    return references.get(f"{kind}/{name}", references.get(f"{kind}/{name.split('_')[0]}"))


def _rows(axis: Axis, study: Study, outcomes: Mapping[str, Outcome]) -> Iterator[list[str]]:
    is_own = axis.reference != study.baseline.name
    for row in axis.rows if is_own else (study.baseline, *axis.rows):
        outcome, is_reference = outcomes.get(row.name), row.name == axis.reference
        about = axis.baseline if row is study.baseline else row.about
        yield [
            f"**{row.name}**" if is_reference else row.name,
            f"{about}{_incomplete(study, row, outcome)}",
            *_costs(study, outcome),
            *(
                _spread(outcome, name) if is_reference else _score(study, outcome, band_of(axis, outcomes, name), name)
                for name in study.report.scores
            ),
        ]


def _incomplete(study: Study, row: Row, outcome: Outcome | None) -> str:
    wanted = len(study.seeds_of(row))
    return "" if outcome is None or len(outcome.seeds) == wanted else f" ({len(outcome.seeds)} of {wanted} seeds)"


def _costs(study: Study, outcome: Outcome | None) -> list[str]:
    if outcome is None:
        return ["not run", *[""] * (len(study.report.costs) - 1)]
    shown = {
        "parameters": f"{outcome.parameters / MILLION:.2f}",
        "flops": "" if outcome.flops is None else f"{outcome.flops / GIGA:.2f}",
        "seconds": "" if outcome.seconds is None else f"{outcome.seconds:.2f}",
        "minutes": "" if outcome.minutes is None else f"{outcome.minutes:.1f}",
    }
    return [shown[name] for name in study.report.costs]


def _spread(outcome: Outcome | None, name: str) -> str:
    values = () if outcome is None else outcome.scores.get(name, ())
    return _mean(values, is_bold=True) if values else ""


def _score(study: Study, outcome: Outcome | None, band: Band | None, name: str) -> str:
    values = () if outcome is None else outcome.scores.get(name, ())
    if not values:
        return ""
    told = judge(values, band)
    shown = _mean(values, name == study.report.deciding and band is not None and told != NOISE)
    return f"{shown} ({told})" if told else shown


def _mean(values: Sequence[float], is_bold: bool) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    bounds = f" [{100 * min(values):.1f}, {100 * max(values):.1f}]" if len(values) > 1 else ""
    return f"**{mean}**{bounds}" if is_bold else f"{mean}{bounds}"


def _steps(row: Row, stage: str) -> int:
    return int(row.options[stage].get("trainer", {}).get("max_steps", 0))


def _wrap(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def _code(text: str) -> str:
    return f"`{text}`"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
