"""Gathers the ceilings and floors of one validation split, by the names that the metrics have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.toy import arithmetic
from datamodules.toy.commonsense import CHOICES
from datamodules.toy.entailment import LABELS
from datamodules.toy.pairs import PAIRS
from datamodules.toy.questions import plausible
from datamodules.toy.scenes import Description

References = dict[str, dict[str, float]]


def references(descriptions: Sequence[Description], seed: int, gallery: int) -> References:
    """Return task -> name -> score.

    Args:
        descriptions: The scenes whose captions, VQA questions and VCR items are scored.
        seed: Of the masks that are drawn.
        gallery: Number of pictures that are searched.
    """
    return {
        "pretrain": _pretrain(descriptions, np.random.default_rng(seed)),
        "vqa": _vqa(descriptions),
        "vcr": {
            "ceiling/q2a": 1.0,
            "ceiling/qa2r": 1.0,
            "ceiling/q2ar": 1.0,
            "floor/q2a": 1 / CHOICES,
            "floor/qa2r": 1 / CHOICES,
            "floor/q2ar": 1 / CHOICES**2,
        },
        "nlvr2": {
            "ceiling/accuracy": 1.0,
            "ceiling/consistency": 1.0,
            "floor/accuracy": 0.5,  # two of a statement's four pairs
            "floor/consistency": 0.5**PAIRS,  # by guessing; a constant answer has none
        },
        "snli_ve": {"ceiling/accuracy": 1.0, "floor/accuracy": 1 / len(LABELS)},
        "retrieval": {
            "ceiling/tr@1": 1.0,
            "ceiling/ir@1": 1.0,
            "floor/tr@1": 1 / gallery,  # as many captions of each picture
            "floor/ir@1": 1 / gallery,
        },
    }


def _pretrain(descriptions: Sequence[Description], rng: np.random.Generator) -> dict[str, float]:
    data = [(description.scene, description.captions) for description in descriptions]
    return {
        "ceiling/itm_accuracy": arithmetic.itm_ceiling(data),
        "floor/itm_accuracy": 0.5,
        "ceiling/mlm_content_accuracy": arithmetic.mlm_content_ceiling(data, rng),
        "floor/mlm_content_accuracy": arithmetic.mlm_content_floor(),
        "ceiling/mpc_accuracy": arithmetic.mpc_ceiling(data),
        "floor/mpc_accuracy": arithmetic.mpc_floor([caption for _, texts in data for caption in texts]),
        "ceiling/pbc_iou": 1.0,
        "floor/pbc_iou": arithmetic.pbc_floor(data),
    }


def _vqa(descriptions: Sequence[Description]) -> dict[str, float]:
    asked = [question for description in descriptions for question in description.questions]
    truth = [min(1.0, arithmetic.ANSWER_CREDIT * question.answers.count(question.truth)) for question in asked]
    blind = [arithmetic.vqa_floor(len(plausible(question.truth))) for question in asked]
    return {"ceiling/vqa_accuracy": float(np.mean(truth)), "floor/vqa_accuracy": float(np.mean(blind))}
