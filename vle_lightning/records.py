"""What metrics.json and run.json say of a run, for people: titles of tasks, the scores to report, the data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

TASKS = {  # and their titles, in the order of the page of results
    "vqa": "Visual question answering",
    "vcr": "Visual commonsense reasoning (VCR)",
    "nlvr2": "NLVR2",
    "nlvr": "NLVR",
    "snli_ve": "SNLI-VE",
    "retrieval": "Image-text retrieval",
    "dual_retrieval": "Image-text retrieval by a dual encoder",
    "classification": "Image classification",
    "segmentation": "Semantic segmentation",
    "pretrain": "Pre-training",
}
SCORES = {  # of metrics.json, without the split; a suffix behind "_" says how it was measured
    "vqa": ("vqa_accuracy",),
    "vcr": ("q2a", "qa2r", "q2ar"),
    "nlvr2": ("accuracy", "consistency"),
    "nlvr": ("accuracy", "consistency"),
    "snli_ve": ("accuracy",),
    "retrieval": ("tr@1", "ir@1"),
    "dual_retrieval": ("tr@1", "ir@1"),
    "classification": ("acc@1", "acc@5"),
    "segmentation": ("miou", "pixel_accuracy"),
    "pretrain": ("itm_accuracy", "mlm_accuracy", "mlm_content_accuracy", "mpc_accuracy", "pbc_iou"),
}
MEASURED = re.compile(r"(?:_\d+folds)?(?:_top\d+)?")  # such suffixes
OWN_PATH = re.compile(r"(?<![\w.:/-])~?/(?:[^\s/'\"]+/)+")  # of the machine that ran a command


def scores_of(task: str, metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the scores to report, without their split, those of the task first in their order."""
    named = dict.fromkeys(name.split("/", 1)[1] for name in metrics if name.startswith(("val/", "test/")))
    if task not in SCORES:
        return sorted(name for name in named if "loss" not in name and "/" not in name)
    return [n for score in SCORES[task] for n in sorted(named) if n == score or _is_measured(n, score)]


def split_of(score: str, metrics: Mapping[str, float]) -> str | None:
    """Return the split that a score is reported on: test where there is one."""
    return next((split for split in ("test", "val") if f"{split}/{score}" in metrics), None)


def data_of(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the sources by the folder above them, from the manifests ROOT/SOURCE/SPLIT/manifest.json."""
    places: dict[str, dict[str, None]] = {}
    for row in record.get("data", []):
        *root, source, _, _ = ("", *PurePosixPath(row["path"]).parts)
        above = [part for part in root if part not in ("", "/", "shards")]
        places.setdefault(above[-1] if above else "", {})[source] = None
    return {root: list(sources) for root, sources in sorted(places.items())}


def name_data(record: Mapping[str, Any]) -> str:
    """Name the data of a run: "toy: vqav2"."""
    return "; ".join(f"{root}: {', '.join(sources)}" for root, sources in data_of(record).items())


def without_paths(text: str) -> str:
    """Leave out the folders of the machine that ran a command."""
    return OWN_PATH.sub(".../", text)


def _is_measured(name: str, score: str) -> bool:
    return name.startswith(f"{score}_") and MEASURED.fullmatch(name.removeprefix(score)) is not None
