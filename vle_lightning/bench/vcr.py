"""A VCR question: the image encoded once for its four choices, beside one pass a choice as in the published code."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vle_lightning.batch import VCRBatch
from vle_lightning.bench.timing import Measurement, best_of_alternating, seconds_of
from vle_lightning.tasks.vcr import VCRTask

CHOICES, REGIONS = 4, 3
SHORTEST, LONGEST = 16, 40  # tokens of question and answer


def make_question(image_size: int, vocabulary: int) -> VCRBatch:
    """Draw one question with seed 0: four choices of 16-40 tokens, three tagged objects each."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (CHOICES,), generator=random)
    tokens = int(lengths.max())
    mask = torch.arange(tokens) < lengths[:, None]
    ids = torch.randint(5, vocabulary, (CHOICES, tokens), generator=random).masked_fill(~mask, 0)
    corner = torch.rand(1, 1, REGIONS, 2, generator=random).expand(1, CHOICES, REGIONS, 2) * 0.6
    types = torch.arange(2, 2 + REGIONS).expand(1, CHOICES, REGIONS)
    token_types = torch.zeros(1, CHOICES, tokens, dtype=torch.long)
    token_types[..., 1 : 1 + REGIONS] = types
    return VCRBatch(
        sample_ids=("0",),
        valid=torch.ones(1, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(1, 3, image_size, image_size, generator=random),
        input_ids=ids[None],
        attention_mask=mask[None],
        texts=("",),
        token_types=token_types,
        regions=torch.cat([corner, corner + 0.3], dim=-1),
        region_valid=torch.ones(1, CHOICES, REGIONS, dtype=torch.bool),
        region_types=types,
        targets=torch.zeros(1, dtype=torch.long),
        families=("",),
        question_ids=("0",),
    )


def one_pass(task: VCRTask, batch: VCRBatch) -> Tensor:
    """Score the four choices together: logits (1, 4)."""
    logits: Tensor = task(batch)
    return logits


def four_passes(task: VCRTask, batch: VCRBatch) -> Tensor:
    """Score each choice by a pass of its own, which encodes the image again: logits (1, 4)."""
    return torch.cat([task(_choice(batch, number)) for number in range(CHOICES)], dim=1)


def _choice(batch: VCRBatch, number: int) -> VCRBatch:
    fields = ("input_ids", "attention_mask", "token_types", "regions", "region_valid", "region_types")
    return replace(batch, **{name: getattr(batch, name)[:, number : number + 1] for name in fields})


def bench_vcr(architecture: str, repeats: int) -> Measurement:
    """Time both ways in turn, best of ``repeats``."""
    torch.manual_seed(0)
    task = VCRTask(architecture).eval()
    batch = make_question(task.model.config.image_size, task.model.vocabulary)
    with torch.inference_mode():
        best = best_of_alternating(
            {
                "once": lambda: seconds_of(lambda: one_pass(task, batch)),
                "four_passes": lambda: seconds_of(lambda: four_passes(task, batch)),
            },
            repeats,
        )
    return {
        "vcr_seconds/once": best["once"],
        "vcr_seconds/four_passes": best["four_passes"],
        "vcr_speedup": best["four_passes"] / best["once"],
    }
