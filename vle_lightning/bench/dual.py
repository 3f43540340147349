"""Retrieval by a dual encoder beside the fusion of all pairs, with the same backbone from the same weights."""

from __future__ import annotations

import torch
from torch import Tensor

from vle_lightning.batch import RetrievalBatch
from vle_lightning.bench.retrieval import PAIRS, make_set, once
from vle_lightning.bench.timing import Measurement, best_of_alternating, seconds_of
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.scoring import EncodedSplit, score_split

IMAGES, SHARE, CAPTIONS = 200, 40, 5  # images of the dual encoder and of the fusion, texts of each
TURNS = 2  # the fusion takes seconds a turn


def build(architecture: str) -> tuple[DualRetrievalTask, RetrievalTask]:
    """Build a dual encoder and a fusion over equal weights, without dropout."""
    torch.manual_seed(0)
    dual, fusion = DualRetrievalTask(architecture).eval(), RetrievalTask(architecture).eval()
    fusion.model.load_state_dict(dual.model.state_dict())
    fusion.head.load_state_dict(dual.head.state_dict())
    return dual, fusion


def similarities(task: DualRetrievalTask, batch: RetrievalBatch) -> Tensor:
    """Make a vector of each image and text, and all products: scores (I, T)."""
    encoded = EncodedSplit()
    task.encode(batch, encoded)
    return score_split(encoded, None, task.device, 1).scores


def bench_dual(architecture: str, repeats: int) -> Measurement:
    """Compare both at the toy's width, whatever is measured elsewhere: a larger model fuses all pairs in hours."""
    del architecture
    return compare_dual("vlmo-toy", IMAGES, SHARE, CAPTIONS, min(repeats, TURNS))


@torch.inference_mode()
def compare_dual(architecture: str, images: int, share: int, captions: int, repeats: int) -> Measurement:
    """Time both in turn, best of ``repeats``: scores per second, and their ratio.

    Args:
        architecture: a preset of a mixture of experts.
        images: that the dual encoder compares with all their texts; encoding these is most of its time.
        share: images that the fusion scores with their texts, fewer: its time is that of the pairs.
        captions: texts of each image.
        repeats: turns.
    """
    dual, fusion = build(architecture)
    size, vocabulary = dual.model.config.image_size, dual.model.vocabulary
    whole, part = (make_set(count, captions, size, vocabulary) for count in (images, share))
    best = best_of_alternating(
        {
            "dual": lambda: seconds_of(lambda: similarities(dual, whole)),
            "fusion": lambda: seconds_of(lambda: once(fusion, part, PAIRS["small"])),
        },
        repeats,
    )
    rates = {"dual": images**2 * captions / best["dual"], "fusion": share**2 * captions / best["fusion"]}
    return {
        f"dual_scores_per_second/{images}x{images * captions}": rates["dual"],
        f"fusion_scores_per_second/share_of_{share}x{share * captions}": rates["fusion"],
        "dual_speedup": rates["dual"] / rates["fusion"],
    }
