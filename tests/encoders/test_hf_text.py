"""Text encoders of transformers: the library's own outputs with the same weights, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from tests.factories import generator, make_texts
from vle_lightning.encoders.base import UNLIMITED
from vle_lightning.encoders.hf_text import HFTextConfig
from vle_lightning.errors import UserError

TINY = HFTextConfig(200, 16, layers=2, heads=2, intermediate=32, max_positions=40, pad_token_id=0)
TYPES = ("roberta", "bert", "electra", "modernbert", "deberta-v2", "distilbert", "xlm-roberta", "mpnet")


@pytest.mark.parametrize("kind", TYPES)
@torch.no_grad()
def test_the_states_are_those_of_the_library(kind: str) -> None:
    torch.manual_seed(0)
    encoder = replace(TINY, type=kind).build().eval()
    theirs = AutoModel.from_config(encoder.model.config).eval()
    lacking = theirs.load_state_dict(encoder.model.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert all("pooler" in name for name in lacking.missing_keys)
    ids, mask = make_texts(3, 9, generator(0))
    stream = encoder(ids, mask)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(stream.states[mask], expected[mask])
    assert stream.states.shape == (3, 9, encoder.width)
    assert torch.equal(stream.mask, mask)


@pytest.mark.parametrize("kind", TYPES)
def test_the_layers_are_all_of_those_that_were_asked_for(kind: str) -> None:
    encoder = replace(TINY, type=kind).build()
    assert len(encoder.layers) == 2
    assert len({id(layer) for layer in encoder.layers}) == 2


@pytest.mark.parametrize(("kind", "tokens"), [("bert", 40), ("roberta", 39), ("modernbert", UNLIMITED)])
def test_the_longest_text_is_as_long_as_the_position_table_allows(kind: str, tokens: int) -> None:
    encoder = replace(TINY, type=kind).build().eval()
    assert encoder.max_tokens == tokens
    longest = min(tokens, 60)
    encoder(torch.ones(1, longest, dtype=torch.long), torch.ones(1, longest, dtype=torch.bool))
    if tokens < 60:
        with pytest.raises((IndexError, RuntimeError)):
            encoder(torch.ones(1, longest + 1, dtype=torch.long), torch.ones(1, longest + 1, dtype=torch.bool))


def test_options_reach_the_library() -> None:
    encoder = replace(TINY, type="modernbert", options={"local_attention": 4}).build()
    assert encoder.model.config.local_attention == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"type": "no_such"}, "type is 'no_such': transformers has no such model"),
        ({"type": "vit"}, "vit is not an encoder of text alone"),
        ({"type": "gpt2"}, "gpt2 is not an encoder of text alone"),
        ({"type": "t5"}, "t5 is not an encoder of text alone"),
        ({"type": "bert", "options": {"is_decoder": True}}, "bert is not an encoder of text alone"),
        ({"pad_token_id": 200}, "pad_token_id 200 is not a token of a vocabulary of 200"),
        ({"options": {"colour": 3}}, "options holds colour, which a roberta does not have"),
        ({"options": {"hidden_act": "no_such"}}, "cannot build this roberta with these options: it has no 'no_such'"),
        ({"options": {"hidden_act": 3}}, "expected str, got int"),
        ({"options": {"dtype": "float16"}}, "options holds dtype, which a roberta does not have"),
        ({"heads": 3}, "16"),
        ({"type": "fnet"}, "a fnet reads padding as it reads words"),
        ({"type": "convbert"}, "a convbert lets padding into the states of its words"),
        ({"type": "esm"}, "an? esm has weights that never get a gradient"),
        ({"type": "layoutlm"}, "a layoutlm does not run without its pooler"),
        ({"type": "squeezebert"}, "transformers cannot build this squeezebert"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        replace(TINY, **changes).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"model_type": "bert", "hidden_size": "many"}', '{"model_type": "vit"}']
)
def test_a_configuration_that_cannot_be_is_told_in_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="model.architecture.text.name: .*") as caught:
        replace(TINY, name=str(tmp_path)).resolved("model.architecture.text")
    assert "\n" not in str(caught.value)
