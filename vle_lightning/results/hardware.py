"""What GPUs made of this code (`make gpu-check`): a section of the page for each kind of hardware."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

STATUSES = ("done", "failed", "not run")
SHOWN = {  # figures of a training part, and how they read
    "batch": ("batch", "{:.0f}"),
    "step_seconds": ("s a step", "{:.3f}"),
    "samples_per_second": ("samples/s", "{:.1f}"),
    "tflops": ("TFLOP/s", "{:.1f}"),
    "utilisation": ("utilisation", "{:.1%}"),
    "utilisation_of_measured": ("of measured", "{:.1%}"),
    "peak_allocated_gib": ("peak GiB", "{:.1f}"),
}
AT = {"at_largest_batch/": "largest batch", "at_half_of_it/": "half of it"}  # prefixes of figures
HEADS = ("mlm", "itm", "mpc", "pbc", "itc", "itm_hard")  # objectives, whose forward is timed by name
PHASES = ("text", "image", "fusion", "heads", "all forward", "backward", "clip", "AdamW", "launches", "casts")
COLUMNS = ("part", "status", *(name for name, _ in SHOWN.values()), "largest batch", "what else")
LONGEST = 300  # characters of a reason


class Hardware(NamedTuple):
    """One JSON of a check."""

    file: str
    record: Mapping[str, Any]


def read_hardware(folder: Path) -> tuple[list[Hardware], list[str]]:
    """Read the JSONs of a folder, which need not be there.

    Returns:
        The checks, and what is wrong with files that are left out.
    """
    found, problems = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(Hardware(file.name, _checked(json.loads(file.read_text(encoding="utf-8")))))
        except (OSError, ValueError) as error:
            problems.append(f"{folder.name}/{file.name} is left out: {error}")
    return found, problems


def hardware_section(hardware: Hardware) -> str:
    """Write the section of one check: what it ran on, and a table row for each measurement."""
    record = hardware.record
    versions = record.get("versions") or {}
    software = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "lightning") if name in versions)
    commit = f"commit {record['commit'][:7]}" if record.get("commit") else "commit not known"
    about = [
        record["hardware"] + (f" with {record['memory_gib']} GiB" if record.get("memory_gib") else ""),
        f"driver {record.get('driver') or 'not known'}",
        software,
        commit + (" (modified)" if record.get("modified") else ""),
        str(record.get("date", "")),
    ]
    rows = [row for name, part in record["parts"].items() for row in _rows(name, part)]
    head = [
        f"## Hardware: {record['hardware']}",
        "",
        "Measured by `make gpu-check` on random weights: a pre-training step of all four objectives at 224 px and 50 "
        "tokens in bf16, forward, backward, clipping and AdamW. *utilisation*: model FLOPs, counted without what is "
        "recomputed, by the peak of the data sheet; *of measured*: by the rate of a large product on this card.",
        "",
        "; ".join(filter(None, about)) + ".",
        "",
    ]
    lines = [*head, *_table(COLUMNS, rows)]
    phases = [_phases(name, part["figures"]) for name, part in record["parts"].items() if _is_timed(part)]
    if phases:
        told = "Milliseconds of one step by phase, each waited for, so that they sum up to more than a step; its calls."
        lines += ["", told, "", *_table(("part", *PHASES), phases)]
    return "\n".join(lines) + "\n"


def _checked(content: object) -> Mapping[str, Any]:
    """Return the record.

    Raises:
        ValueError: it is not what `make gpu-check` writes.
    """
    if not isinstance(content, dict) or not isinstance(content.get("hardware"), str):
        raise ValueError("it names no hardware")
    if content.get("device") != "cuda":
        raise ValueError("it is not of a GPU")
    parts = content.get("parts")
    if not isinstance(parts, dict):
        raise ValueError("it has no parts")
    for name, part in parts.items():
        if (
            not isinstance(part, dict)
            or part.get("status") not in STATUSES
            or not isinstance(part.get("figures"), dict)
        ):
            raise ValueError(f"its part {name!r} has no status or no figures")
    return content


def _rows(name: str, part: Mapping[str, Any]) -> Iterable[list[str]]:
    figures = part["figures"]
    largest = ""
    if "largest_batch" in figures:
        largest = str(figures["largest_batch"]) + ("" if figures.get("largest_batch_is_proven") else " or more")
    yield [name, part["status"], *_cells(figures, ""), largest, _remark(part)]
    for prefix, told in AT.items():
        if f"{prefix}batch" in figures:
            yield [f"{name}, {told}", part["status"], *_cells(figures, prefix), largest, ""]


def _is_timed(part: Mapping[str, Any]) -> bool:
    return "phase/forward" in part["figures"]


def _phases(name: str, figures: Mapping[str, Any]) -> list[str]:
    """Write the times of one step; a model that is one transformer has no fusion apart."""
    seconds = {phase: figures.get(f"phase/forward/{phase}") for phase in ("text", "image", "fusion")}
    seconds["heads"] = sum(figures.get(f"phase/forward/{head}") or 0.0 for head in HEADS)
    seconds |= {phase: figures.get(f"phase/{phase}") for phase in ("forward", "backward", "clip", "optimiser")}
    calls = [figures.get("launches"), figures.get("casts")]
    times = ["" if value is None else f"{1000 * value:.1f}" for value in seconds.values()]
    return [name, *times, *("" if count is None else f"{count:,.0f}" for count in calls)]


def _table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    return [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]


def _cells(figures: Mapping[str, Any], prefix: str) -> list[str]:
    values = {key: figures.get(f"{prefix}{key}") for key in SHOWN}
    return ["" if value is None else SHOWN[key][1].format(value) for key, value in values.items()]


def _remark(part: Mapping[str, Any]) -> str:
    """Say what no column has: why a part is not done, how far losses are apart, what the tests said."""
    figures, told = part["figures"], []
    if part.get("reason"):
        told.append(" ".join(str(part["reason"]).split())[-LONGEST:])
    if "matmul_tflops" in figures:
        copied = f"copies {figures.get('copy_gb_per_second', 0):,.0f} GB/s, bytes read and written together"
        told.append(f"{figures['matmul_tflops']:.0f} TFLOP/s on a large product; {copied}")
    if "best_batch" in figures:
        told.append(f"best batch {figures['best_batch']:.0f}")
    if "data_wait_share" in figures:
        told.append(f"{figures['data_wait_share']:.1%} of the time waiting for data")
    if "largest_relative_difference" in figures:
        told.append(f"losses within {figures['largest_relative_difference']:.1e} of ddp's")
    elif "losses" in figures:
        told.append(f"losses {', '.join(f'{loss:.2f}' for loss in figures['losses'])}")
    if "summary" in figures:
        told.append(str(figures["summary"]))
    return "; ".join(told)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
