"""The text tower, DeBERTa-v3-base, beside the one that transformers ships, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DebertaV2Model

from vle_lightning.bench.timing import Measurement, best_of_alternating, seconds_of
from vle_lightning.models.presets import PRESETS

ROWS, TOKENS, WORDS = 8, 20, 1000  # texts; the vocabulary costs nothing here


def bench_text(architecture: str, repeats: int) -> Measurement:
    """Train both on the same texts of 20 tokens, in turn: forward and backward of the states' sum, with dropout."""
    del architecture
    own = replace(PRESETS["vle-base"].text, vocab_size=WORDS).build().train()
    inner = own.get_submodule("model")
    published = DebertaV2Model(inner.config).train()
    inner.load_state_dict(published.state_dict())
    ids = torch.randint(5, WORDS, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: own(ids, mask).states,
        "transformers": lambda: published(input_ids=ids, attention_mask=mask.long()).last_hidden_state,
    }
    steps = {name: (lambda way=way: seconds_of(lambda: way().sum().backward())) for name, way in ways.items()}
    best = best_of_alternating(steps, repeats + 1)  # the first of each warms up
    return {
        **{f"text_seconds/{name}": seconds for name, seconds in best.items()},
        "text_speedup": best["transformers"] / best["ours"],
    }
