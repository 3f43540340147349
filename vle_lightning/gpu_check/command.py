"""``python -m vle_lightning gpu-check``: all parts, each in a process of its own, into one JSON."""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vle_lightning.callbacks.recorder import git_state, versions
from vle_lightning.errors import UserError
from vle_lightning.files import write_json
from vle_lightning.gpu_check.apart import LAST, ended_by_sigterm, run_apart
from vle_lightning.gpu_check.device import describe
from vle_lightning.gpu_check.parts import TINY_MODELS, Part, Scale, make_parts
from vle_lightning.gpu_check.photos import PhotoSettings
from vle_lightning.gpu_check.report import NotRunError, Report
from vle_lightning.gpu_check.runs import compare_losses
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.results.hardware import Hardware, hardware_section

FOLDER = Path("experiments") / "hardware"
TOGETHER = 450.0  # seconds; the whole may take 8 minutes


def run_gpu_check(arguments: Sequence[str]) -> int:
    """Check a GPU as the command line asks.

    Args:
        arguments: the command line behind ``gpu-check``.

    Returns:
        0 where all went well or there is no GPU; 1 where a part failed.

    Raises:
        UserError: the command line is wrong, or the result has no place.
    """
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: no CUDA GPU was found here, so there is nothing to check")
        return 0
    scale = Scale(options.device) if options.device == "cuda" else tiny_scale()
    if options.part:
        return run_part(find_part(scale, options.part, Path(options.shared)), Path(options.out))
    about = describe(torch.device(options.device))
    out = target(options.out, options.device, str(about["hardware"]))
    began = time.perf_counter()
    results: dict[str, Any] = {}
    record = {
        **about,
        "device": options.device,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **git_state(),
        "versions": versions(),
        "parts": results,
    }

    def keep(name: str, result: dict[str, Any]) -> None:
        """Write what a part has found by now: what was measured outlives an end from outside."""
        results[name] = result
        compare_losses(results)
        compare_rates(results)
        record["seconds"] = round(time.perf_counter() - began, 1)
        if out is not None:
            write_json(out, record)

    with tempfile.TemporaryDirectory() as shared, ended_by_sigterm():
        for part in make_parts(scale, Path(shared)):
            if options.only and part.name not in options.only:
                continue
            left = TOGETHER - (time.perf_counter() - began)
            keep(part.name, run_apart(part, options.device, Path(shared), left, partial(keep, part.name)))
            tell(part.name, results[part.name])
    print(hardware_section(Hardware(out.name if out else "", record)))
    failed = [name for name, result in results.items() if result["status"] == "failed"]
    if out is not None:
        print(f"{out}: {len(results) - len(failed)} of {len(results)} parts without a failure")
    return 1 if failed else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: an option is missing or unknown.
    """
    parser = OneSentenceParser(
        "python -m vle_lightning gpu-check", description="Measure training on this machine's GPU.", allow_abbrev=False
    )
    parser.add_argument("--out", help=f"JSON file (default: {FOLDER}/<name of the GPU>.json)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="check these parts alone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)  # cpu: for tests
    parser.add_argument("--part", help=argparse.SUPPRESS)  # run this one in this process, for the whole
    parser.add_argument("--shared", default=".", help=argparse.SUPPRESS)  # folder of what several parts need
    options = parser.parse_args(arguments)
    names = [part.name for part in make_parts(Scale("cuda") if options.device == "cuda" else tiny_scale(), Path())]
    if unknown := [name for name in options.only or () if name not in names]:
        raise UserError(f"--only: there is no part {unknown[0]!r}; choose among {', '.join(names)}")
    return options


def tiny_scale() -> Scale:
    """Return the scale at which all code but CUDA's runs on a CPU."""
    photos = PhotoSettings("cpu", "tiny", 8, 4, 2, 4, 48, 8, "32-true", workers=1)
    return Scale("cpu", TINY_MODELS, seconds=0.2, ceiling=16, toy="tiny", toy_batch=8, photos=photos)


def target(given: str | None, device: str, hardware: str) -> Path | None:
    """Return the file to write; None where nothing is to be kept: what a CPU did is no result.

    Raises:
        UserError: it is a folder.
    """
    if given is None:
        name = re.sub(r"[^a-z0-9]+", "_", hardware.lower()).strip("_")
        return FOLDER / f"{name}.json" if device == "cuda" else None
    if Path(given).is_dir():
        raise UserError(f"--out: {given} is a folder; name the file to write")
    return Path(given)


def find_part(scale: Scale, name: str, shared: Path) -> Part:
    """Return the part of that name.

    Raises:
        UserError: there is none.
    """
    for part in make_parts(scale, shared):
        if part.name == name:
            return part
    raise UserError(f"--part: there is no part {name!r}")


def run_part(part: Part, file: Path) -> int:
    """Run a part in this process; all that it raises goes into its report."""
    report = Report(file)
    try:
        part.check(report)
    except NotRunError as error:
        report.close("not run", str(error))
        return 0
    except Exception as error:  # whatever ends a part is its result; the others go on
        report.close("failed", f"{type(error).__name__}: {error}"[-LAST:])
        return 1
    report.close("done")
    return 0


def compare_rates(results: Mapping[str, dict[str, Any]]) -> None:
    """Add each part's share of the measured rate of a matrix product (``utilisation_of_measured``).

    Args:
        results: of all parts so far, by name; changed in place.
    """
    best = results.get("rates", {}).get("figures", {}).get("matmul_tflops")
    if best is None:
        return
    for result in results.values():
        figures = result["figures"]
        for name in [name for name in figures if name.endswith("tflops") and name != "matmul_tflops"]:
            figures[name.removesuffix("tflops") + "utilisation_of_measured"] = figures[name] / best


def tell(name: str, result: dict[str, Any]) -> None:
    """Print how a part ended, and its numbers."""
    figures = result["figures"].items()
    numbers = [f"{key} {value:.4g}" for key, value in figures if type(value) in (int, float)]
    print(f"{name}: {result['status']}. {result.get('reason') or ', '.join(numbers)}", flush=True)
