"""Where a model looks: cross-attention beside an independent computation, and what it costs when nobody asks."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from tests.factories import ANSWERS, statement_batch, vcr_batch, vqa_batch
from vle_lightning.fusion.co_attention import CoAttention, CoAttentionConfig
from vle_lightning.fusion.layers import Attention
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.presets import ALL_PRESETS, PRESETS
from vle_lightning.streams import ImageLayout, Stream
from vle_lightning.tasks.looks import look, patch_heat
from vle_lightning.tasks.nlvr2 import NLVR2Task
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

CONFIG = CoAttentionConfig(width=8, layers=3, heads=2, intermediate=16, dropout=0.0, token_types=4)


@torch.no_grad()
def literal_attention(attention: Attention, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    """Return (B, H, N, M) by loops over samples, heads, states and context, from the published formula."""
    width = CONFIG.width // CONFIG.heads
    weights = torch.zeros(len(states), CONFIG.heads, states.shape[1], context.shape[1])
    for b, head, n in ((b, h, n) for b in range(len(states)) for h in range(2) for n in range(states.shape[1])):
        part = slice(head * width, (head + 1) * width)
        query = (attention.query.weight[part] @ states[b, n]) + attention.query.bias[part]
        powers = [
            float(torch.exp(query @ (attention.key.weight[part] @ c + attention.key.bias[part]) / width**0.5))
            if mask[b, 0, 0, m]
            else 0.0
            for m, c in enumerate(context[b])
        ]
        weights[b, head, n] = torch.tensor(powers) / sum(powers)
    return weights


@pytest.fixture
def streams() -> tuple[Stream, Stream]:
    torch.manual_seed(0)
    text = Stream(torch.randn(2, 3, 8), torch.tensor([[True, True, True], [True, True, False]]))
    image = Stream(torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, True, True, False]]))
    return text, image


def test_weights_equal_the_formula_and_sum_to_one(streams: tuple[Stream, Stream]) -> None:
    text, image = streams
    attention, mask = Attention(CONFIG), image.mask[:, None, None, :]
    weights = attention.weights(text.states, image.states, mask)
    torch.testing.assert_close(weights, literal_attention(attention, text.states, image.states, mask))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))
    assert (weights[1, :, :, 4] == 0).all()  # masked


def test_the_weights_are_those_that_forward_reads_with(streams: tuple[Stream, Stream]) -> None:
    text, image = streams
    attention, mask = Attention(CONFIG), image.mask[:, None, None, :]
    weights = attention.weights(text.states, image.states, mask)
    values = attention.value(image.states).unflatten(-1, (2, -1)).transpose(1, 2)
    read = attention.output((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention.norm(text.states + read), attention(text.states, image.states, mask))


def test_watching_sees_the_last_layer_of_each_pass_and_changes_nothing(streams: tuple[Stream, Stream]) -> None:
    text, image = streams
    fusion = CoAttention(CONFIG).eval()
    before = fusion(text, image)
    with fusion.watch() as seen:
        during = fusion(text, image)
        fusion(text.repeat(2), image.repeat(2))
    assert [tuple(weights.shape) for weights in seen] == [(2, 2, 3, 5), (4, 2, 3, 5)]
    states, others = text.states, image.states
    masks = text.mask[:, None, None, :], image.mask[:, None, None, :]
    for mine, other in list(zip(fusion.text, fusion.image, strict=True))[:-1]:
        states, others = mine(states, masks[0], others, masks[1]), other(others, masks[1], states, masks[0])
    last = fusion.text[-1]
    asking = last.attention(states, states, masks[0])  # type: ignore[operator]
    expected = literal_attention(last.cross, asking, others, masks[1])  # type: ignore[arg-type]
    torch.testing.assert_close(seen[0], expected)
    for one, other in zip(before, during, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_computed_where_nobody_watches(streams: tuple[Stream, Stream]) -> None:
    fusion = CoAttention(CONFIG)
    with fusion.watch() as seen:
        pass
    with patch.object(Attention, "weights", side_effect=AssertionError("weights were computed")):
        fusion(*streams)
    with pytest.raises(RuntimeError, match="broken"), fusion.watch():
        raise RuntimeError("broken")
    fusion(*streams)
    assert seen == []


def test_heat_is_the_mean_over_heads_of_what_the_first_token_reads_of_each_patch() -> None:
    weights = torch.zeros(1, 2, 3, 8)  # CLS, 2 x 3 patches, a region
    weights[0, 0, 0, 6], weights[0, 0, 0, 0] = 0.5, 0.5  # the first head: the last patch, and CLS
    weights[0, 1, 0, 6], weights[0, 1, 0, 1], weights[0, 1, 0, 7] = 0.25, 0.25, 0.5
    weights[0, :, 1:, 3] = 1.0  # other tokens do not count
    heat = patch_heat(weights, ImageLayout(1, 8), torch.zeros(1, 3, 16, 24))
    assert heat is not None
    assert heat.tolist() == [[[0.125, 0, 0], [0, 0, 0.375]]]


@torch.no_grad()
def test_a_look_at_a_task_gives_its_own_logits_and_a_map_for_each_pair() -> None:
    questions, choices, pairs = vqa_batch(), vcr_batch(), statement_batch(images=2)
    vqa, vcr, nlvr2 = VQATask("tiny", answers=ANSWERS).eval(), VCRTask("tiny").eval(), NLVR2Task("tiny").eval()
    seen = look(vqa.model, vqa, questions), look(vcr.model, vcr, choices), look(nlvr2.model, nlvr2, pairs)
    for task, batch, glance in zip((vqa, vcr, nlvr2), (questions, choices, pairs), seen, strict=True):
        torch.testing.assert_close(glance.logits, task(batch))
    shapes = [None if glance.heat is None else tuple(glance.heat.shape) for glance in seen]
    assert shapes == [(4, 1, 6, 6), (4, 4, 6, 6), (4, 2, 6, 6)]
    one = vcr_batch(rows=1)
    alone, among = look(vcr.model, vcr, one).heat, look(vcr.model, vcr, choices).heat
    assert alone is not None
    assert among is not None
    assert alone.shape == (1, 4, 6, 6)
    assert ((among.sum((-1, -2)) > 0) & (among.sum((-1, -2)) < 1)).all()  # the rest: CLS and regions


def test_a_blind_model_has_no_map() -> None:
    task = VQATask("tiny", answers=ANSWERS, blind="image").eval()
    assert look(task.model, task, vqa_batch()).heat is None


def test_a_look_needs_exactly_one_pass() -> None:
    model = DualStream(PRESETS["tiny"])
    with pytest.raises(ValueError, match="not no pairs"):
        look(model, lambda batch: batch.targets, vqa_batch())


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny", "vlmo-tiny"])
def test_what_is_watched_is_the_same_where_only_the_pooled_pair_is_computed(name: str) -> None:
    model, batch = ALL_PRESETS[name].build().eval(), vqa_batch()
    text, image = model.encode_text(batch.input_ids, batch.attention_mask), model.encode_image(batch.pixel_values)
    with model.watch() as seen:
        pooled = model.fuse(text, image).pooled
        torch.testing.assert_close(model.pool_pairs(text, image), pooled)
    first, second = (weights[:, :, 0] for weights in seen)
    torch.testing.assert_close(first, second)
