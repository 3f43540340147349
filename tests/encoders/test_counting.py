"""FLOPs of text encoders, which are counted where no padding can be looked at."""

from __future__ import annotations

import pytest

from vle_lightning.flops import encoder_flops
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.models.backbone import EncoderCall


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_text_encoders_of_transformers_are_counted_as_the_formula_says(kind: str) -> None:
    text = {"kind": "hf_text", "type": kind, "pad_token_id": 0}
    config = read_architecture({"preset": "tiny", "text": text})
    rows, tokens, width = 3, 8, 32
    layer = 12 * width**2 + 2 * tokens * width  # of a token: projections and feed-forward, then attention
    products = rows * tokens * (layer + width**2)  # and the projection to the fusion's width
    assert encoder_flops(config, "none", EncoderCall("text", (rows, tokens))) == 3 * 2 * products
