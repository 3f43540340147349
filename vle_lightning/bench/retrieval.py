"""Retrieval: all pairs of images and texts scored from what was encoded once, beside a full pass for each pair."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vle_lightning.batch import RetrievalBatch
from vle_lightning.bench.timing import Measurement, best_of_alternating, seconds_of
from vle_lightning.metrics.recall import retrieval_scores
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.scoring import EncodedSplit, score_split

SHORTEST, LONGEST = 8, 20  # tokens of a text
IMAGES, CAPTIONS, TOP_K = 100, 5, 16  # at toy width
FEW_IMAGES, FEW_CAPTIONS = 8, 2  # at the size that is measured
TURNS = 2  # of what takes minutes, at most
PAIRS = {"small": 256, "large": 32}  # of a fusion, of all ways alike


def make_set(images: int, captions: int, image_size: int, vocabulary: int) -> RetrievalBatch:
    """Draw images with ``captions`` texts each with seed 0, text lengths uniform in 8-20 tokens."""
    random = torch.Generator().manual_seed(0)
    texts = images * captions
    lengths = torch.randint(SHORTEST, LONGEST + 1, (texts,), generator=random)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    names = tuple(f"{row:04d}" for row in range(images))
    return RetrievalBatch(
        sample_ids=names,
        valid=torch.ones(images, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(images, 3, image_size, image_size, generator=random),
        input_ids=torch.randint(5, vocabulary, mask.shape, generator=random).masked_fill(~mask, 0),
        attention_mask=mask,
        keys=torch.arange(images)[:, None].expand(-1, 3),
        owners=torch.arange(images).repeat_interleave(captions),
        image_ids=names,
        text_ids=tuple(f"{row:04d}" for row in range(texts)),
        texts=("",) * texts,
        shifts=torch.zeros(0, dtype=torch.long),
    )


def build(architecture: str, images: int, captions: int) -> tuple[RetrievalTask, RetrievalBatch]:
    """Build the task with fixed weights, without dropout, and its set."""
    torch.manual_seed(0)
    task = RetrievalTask(architecture, contrastive=1.0).eval()
    return task, make_set(images, captions, task.model.config.image_size, task.model.vocabulary)


def once(task: RetrievalTask, batch: RetrievalBatch, pairs: int, top_k: int = 0) -> Tensor:
    """Encode each image and text once and fuse all pairs, or a shortlist: scores (I, T)."""
    encoded = EncodedSplit()
    task.encode(batch, encoded)
    return score_split(encoded, task.match, task.device, pairs, top_k).scores


def full_passes(task: RetrievalTask, batch: RetrievalBatch, pairs: int) -> Tensor:
    """Encode image and text anew for each pair: scores (I, T).

    Batches are as large as those of `once`, and their texts as much alike in length.
    """
    images, texts = len(batch), len(batch.input_ids)
    by_length = batch.attention_mask.sum(1).argsort(descending=True, stable=True)
    scores = torch.empty(images, texts)
    for part in torch.arange(images * texts).split(pairs):
        rows, columns = part % images, by_length[part // images]
        longest = int(batch.attention_mask[columns].sum(1).max())
        text = task.model.encode_text(batch.input_ids[columns, :longest], batch.attention_mask[columns, :longest])
        fused = task.model.fuse(text, task.model.encode_image(batch.pixel_values[rows]))
        logits = task.head(fused.pooled)
        scores[rows, columns] = logits[:, 1] - logits[:, 0]
    return scores


def bench_retrieval(architecture: str, repeats: int) -> Measurement:
    """Compare scores at toy width, and time both ways at the size of ``architecture``."""
    return {
        **compare_scores("toy", IMAGES, CAPTIONS, TOP_K, min(repeats, TURNS)),
        **time_passes(architecture, FEW_IMAGES, FEW_CAPTIONS, min(repeats, TURNS)),
    }


@torch.inference_mode()
def compare_scores(architecture: str, images: int, captions: int, top_k: int, repeats: int) -> Measurement:
    """Measure how far scoring is from a full pass for each pair, and what a shortlist saves.

    The weights are random: R@1 shows that both are ranked, not how good a shortlist is.
    """
    task, batch = build(architecture, images, captions)
    pairs = PAIRS["small"]
    found: dict[str, Tensor] = {}

    def measure(name: str, kept: int) -> float:
        return seconds_of(lambda: found.update({name: once(task, batch, pairs, kept)}))

    ways = {name: partial(measure, name, kept) for name, kept in (("exact", 0), ("shortlist", top_k))}
    best = best_of_alternating(ways, repeats)
    recalls = {name: retrieval_scores(scores, batch.owners) for name, scores in found.items()}
    few = build(architecture, max(2, images // 5), captions)[1]  # the whole shortlist fuses what exact scoring does
    whole = once(task, few, pairs, top_k=len(few.input_ids)) - once(task, few, pairs)
    return {
        "retrieval_max_difference": float((found["exact"] - full_passes(task, batch, pairs)).abs().max()),
        "shortlist_of_all_max_difference": float(whole.abs().max()),
        "shortlist_pairs": float(found["shortlist"].isfinite().float().mean()),
        "shortlist_seconds": best["shortlist"],
        "exact_seconds": best["exact"],
        "shortlist_speedup": best["exact"] / best["shortlist"],
        **{f"{name}_r@1": (recall.text[1] + recall.image[1]) / 2 for name, recall in recalls.items()},
    }


@torch.inference_mode()
def time_passes(architecture: str, images: int, captions: int, repeats: int) -> Measurement:
    """Time scoring and full passes in turn, best of ``repeats``."""
    task, batch = build(architecture, images, captions)
    pairs = PAIRS["large"]
    best = best_of_alternating(
        {
            "once": lambda: seconds_of(lambda: once(task, batch, pairs)),
            "full_passes": lambda: seconds_of(lambda: full_passes(task, batch, pairs)),
        },
        repeats,
    )
    return {
        "retrieval_seconds/once": best["once"],
        "retrieval_seconds/full_passes": best["full_passes"],
        "retrieval_speedup": best["full_passes"] / best["once"],
    }
