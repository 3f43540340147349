"""Merged attention and the decoder: shortcuts, what may read what, and what cannot be."""

from __future__ import annotations

import pytest
import torch

from vle_lightning.errors import UserError
from vle_lightning.fusion.base import FusionConfig
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.fusion.decoder import Decoder, DecoderConfig
from vle_lightning.fusion.merged_attention import MergedAttentionConfig
from vle_lightning.streams import ALL, FIRST, NONE, POOLED, Part, Reading, Stream

CONFIG = MergedAttentionConfig(width=8, layers=2, heads=2, intermediate=16, dropout=0.0, token_types=2)


@pytest.fixture
def streams() -> tuple[Stream, Stream]:
    torch.manual_seed(0)
    text = Stream(torch.randn(2, 3, 8), torch.tensor([[True, True, True], [True, True, False]]))
    return text, Stream(torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 4 + [False]]))


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, CoAttentionConfig(**vars(CONFIG))], ids=["merged", "co-attention"])
def test_what_is_read_is_part_of_all_and_the_rest_zeros(streams: tuple[Stream, Stream], config: FusionConfig) -> None:
    fusion = config.build().eval()
    second = Part(1, Reading(NONE, slice(-2, None)))
    for first in (POOLED, Reading(ALL, FIRST), Reading(FIRST, NONE), Reading()):
        whole, found = fusion(*streams), fusion(*streams, [Part(1, first), second])
        for states, expected, read in zip(found, whole, first, strict=True):
            wanted = torch.zeros_like(expected[0])
            wanted[read] = expected[0][read]
            torch.testing.assert_close(states[0], wanted)
        assert not found[0][1].any()
        assert not found[1][1, :-2].any()
        torch.testing.assert_close(found[1][1, -2:], whole[1][1, -2:])


@torch.no_grad()
def test_text_and_image_swap_places_where_they_are_merged(streams: tuple[Stream, Stream]) -> None:
    fusion = CONFIG.build().eval()
    text, image = fusion(*streams)
    other_image, other_text = fusion(*reversed(streams))
    torch.testing.assert_close(other_text[streams[0].mask], text[streams[0].mask])
    torch.testing.assert_close(other_image[streams[1].mask], image[streams[1].mask])


@torch.no_grad()
def test_what_is_watched_is_the_share_of_the_image(streams: tuple[Stream, Stream]) -> None:
    fusion = CONFIG.build().eval()
    with fusion.watch() as seen:
        fusion(*streams)
        fusion(*streams, [Part(2, POOLED)])
    assert [tuple(weights.shape) for weights in seen] == [(2, 2, 3, 5)] * 2
    torch.testing.assert_close(seen[0], seen[1])
    assert ((seen[0].sum(-1) > 0) & (seen[0].sum(-1) < 1)).all()
    assert (seen[0][1, ..., 4] == 0).all()  # padded


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    return DecoderConfig(2, 2, 16, 0.0, max_positions=6).build(8, 4).eval()


@torch.no_grad()
def test_a_state_is_made_of_the_words_before_its_own(decoder: Decoder, streams: tuple[Stream, Stream]) -> None:
    words = torch.randn(2, 5, 4)
    states = decoder(streams[1], words)
    assert states.shape == (2, 5, 8)
    changed = words.clone()
    changed[:, 2:] = torch.randn(2, 3, 4)
    torch.testing.assert_close(decoder(streams[1], changed)[:, :3], states[:, :3])
    assert not torch.allclose(decoder(streams[1], changed)[:, 3], states[:, 3])
    torch.testing.assert_close(decoder(streams[1]), states[:, :1])  # the start token reads the pair alone


@torch.no_grad()
def test_the_decoder_reads_no_padding_of_the_pair(decoder: Decoder, streams: tuple[Stream, Stream]) -> None:
    _, image = streams
    states = image.states.clone()
    states[1, 4] = 100.0
    torch.testing.assert_close(decoder(Stream(states, image.mask)), decoder(image))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UserError, match="decoder: heads = 3: must divide the fusion's width = 8"):
        DecoderConfig(heads=3).build(8, 4)
