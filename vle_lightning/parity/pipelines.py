"""Cases of the VQA, ITM and PBC pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vle_lightning.inference.base import Pipeline
from vle_lightning.inference.pictures import FLOOR
from vle_lightning.inference.pipelines import pipeline
from vle_lightning.parity.checks import OUTPUT, Check, compare, equal, failure
from vle_lightning.parity.fixtures import Case


class Kind(NamedTuple):
    """How a recorded pipeline is run here."""

    head: str  # that the model beside the folder must hold
    check: Callable[[Pipeline, Path, dict[str, Any]], Iterator[Check]]


def run_pipelines(case: Case) -> Iterator[Check]:
    """Run each recorded pipeline with the models beside the folder."""
    for name, wanted in case.content.items():
        kind = KINDS.get(name)
        if kind is None:
            yield failure(name, f"unknown pipeline: this harness runs {', '.join(KINDS)}")
            continue
        source = case.folder.sibling(kind.head).path
        answer = pipeline(name, source, processor=case.folder.path, device="cpu")
        for check in kind.check(answer, case.folder.path / wanted["image"], wanted):
            yield check._replace(tensor=f"{name}.{check.tensor}")


def check_vqa(answer: Pipeline, image: Path, wanted: dict[str, Any]) -> Iterator[Check]:
    """Compare the best answers and their scores, in order."""
    ours = answer(image=image, question=wanted["question"], top_k=wanted["top_k"])
    yield equal("answers", [best["answer"] for best in ours], [best["answer"] for best in wanted["output"]])
    yield close("scores", [best["score"] for best in ours], [best["score"] for best in wanted["output"]])


def check_itm(answer: Pipeline, image: Path, wanted: dict[str, Any]) -> Iterator[Check]:
    """Compare both scores and the verdict, which the authors give as text."""
    ours = answer(image=image, text=wanted["text"])
    yield close("score", ours["score"], wanted["output"]["score"])
    yield equal("match", str(ours["match"]), str(wanted["output"]["match"]))


def check_pbc(answer: Pipeline, image: Path, wanted: dict[str, Any]) -> Iterator[Check]:
    """Compare the scores of each patch, the heat map, and the picture's size."""
    ours = answer(image=image, text=wanted["text"])
    yes = torch.tensor(ours["probabilities"]).flatten()
    yield close("score", torch.stack([1 - yes, yes], dim=1), wanted["score"])
    heat = torch.tensor(ours["heatmap"])
    yield close("heatmap", heat, wanted["heatmap"])
    yield close("heatmap_vmin", heat.min() + FLOOR * (heat.max() - heat.min()), wanted["heatmap_vmin"])
    yield equal("output_image_size", list(ours["picture"].size), wanted["output_image_size"])


def close(tensor: str, ours: object, wanted: object) -> Check:
    """Compare lists of numbers as outputs."""
    mine = ours if isinstance(ours, Tensor) else torch.tensor(ours)
    return compare(tensor, mine, torch.tensor(wanted), OUTPUT)


KINDS: dict[str, Kind] = {
    "vqa": Kind("vqa_classifier", check_vqa),
    "itm": Kind("itm_score", check_itm),
    "pbc": Kind("pbc_classifier", check_pbc),
}
