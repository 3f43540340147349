"""Our DeBERTa beside the one that transformers ships, with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DebertaV2Model

from vle_lightning.encoders.deberta import DebertaConfig, DebertaEncoder

SMALL = DebertaConfig(50, 16, layers=2, heads=4, intermediate=32, position_buckets=8, max_positions=40, dropout=0.0)
CONFIGS = {
    "logarithmic buckets": SMALL,
    "a row for each position": replace(SMALL, position_buckets=-1),
    "positions alike from 20 on": replace(SMALL, max_relative_positions=20),
    "with a convolution": replace(SMALL, conv_kernel=3),
}


def make_both(config: DebertaConfig) -> tuple[DebertaV2Model, DebertaEncoder]:
    torch.manual_seed(0)
    published, own = DebertaV2Model(config.published()).eval(), config.build().eval()
    own.model.load_state_dict(published.state_dict())
    return published, own


MODELS = {name: make_both(config) for name, config in CONFIGS.items()}


def make_texts(lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(1, 50, mask.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~mask, 0), mask


@settings(max_examples=8, deadline=None)
@given(name=st.sampled_from(list(CONFIGS)), lengths=st.lists(st.integers(1, 48), min_size=1, max_size=3))
def test_states_and_gradients_are_those_of_the_published_network(name: str, lengths: list[int]) -> None:
    published, own = MODELS[name]
    ids, mask = make_texts(lengths)
    weights = torch.randn(*ids.shape, 16, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    published.zero_grad()
    own.zero_grad()
    expected = published(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    states = own(ids, mask).states
    torch.testing.assert_close(states[mask], expected[mask], rtol=1e-5, atol=1e-5)
    (expected * weights).sum().backward()
    (states * weights).sum().backward()
    gradients = {key: parameter.grad for key, parameter in own.model.named_parameters()}
    for key, parameter in published.named_parameters():
        assert parameter.grad is not None
        close = 1e-6 * (1 + float(parameter.grad.abs().max()))
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-4, atol=close, msg=key)


def test_a_text_of_padding_alone_is_finite_in_half_precision() -> None:
    _, own = MODELS["logarithmic buckets"]
    ids, mask = make_texts([4, 2])
    mask[1] = False
    with torch.autocast("cpu", torch.bfloat16):
        assert own(ids, mask).states.isfinite().all()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_dropout_of_everything_leaves_only_what_norms_add(name: str) -> None:
    """With all dropout at one, attention and feed-forward layers add nothing but their norms' biases."""
    encoder = replace(CONFIGS[name], dropout=1.0).build().train()
    states = encoder(*make_texts([5, 3])).states
    torch.testing.assert_close(states, torch.zeros_like(states))
