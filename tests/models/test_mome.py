"""VLMo's ablations: attention apart below the fusion layers, and one feed-forward for all modalities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.factories import of_kind
from vle_lightning.models.backbone import Modality
from vle_lightning.models.mome import MoME, MoMEConfig
from vle_lightning.streams import Stream

SMALL = MoMEConfig(16, 8, 64, 32, 3, 4, 64, 0, 12, drop_path=0.0)


def make(shared: bool = False, apart: bool = False) -> MoME:
    torch.manual_seed(0)
    return of_kind(MoME, replace(SMALL, shared_experts=shared, attention_apart=apart).build().eval())


def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randint(5, 60, (2, 7)), torch.ones(2, 7, dtype=torch.bool), torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("apart", [False, True])
def test_attention_apart_keeps_each_modality_to_itself(apart: bool) -> None:
    model = make(apart=apart)
    ids, mask, pixels = pair()
    with torch.no_grad():
        text, image = model.encode_text(ids, mask), model.encode_image(pixels)
        fused = model.fuse(text, image)
        alone = model.encode_unimodal(text, "text"), model.encode_unimodal(image, "image")
    for together, single in zip((fused.text, fused.image), alone, strict=True):
        assert torch.allclose(together, single, atol=1e-5) is apart


def test_shared_experts_are_one_feed_forward_a_block_that_all_modalities_read() -> None:
    model, apart = make(shared=True), make()
    experts = {name.split(".experts.")[1].split(".")[0] for name, _ in model.named_parameters() if ".experts." in name}
    assert len(experts) == 1
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in apart.named_parameters()} > names
    ids, mask, pixels = pair()
    paths: tuple[tuple[Stream, Modality], ...] = (
        (model.encode_text(ids, mask), "text"),
        (model.encode_image(pixels), "image"),
    )
    for stream, modality in paths:
        model.zero_grad()
        model.encode_unimodal(stream, modality).square().sum().backward()
        read = [weight for name, weight in model.named_parameters() if ".experts." in name]
        assert all(weight.grad is not None and weight.grad.any() for weight in read)
