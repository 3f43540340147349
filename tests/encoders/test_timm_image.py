"""Image encoders of timm: the library's own outputs, other picture sizes, hidden patches, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from vle_lightning.encoders.base import PatchMask
from vle_lightning.encoders.timm_image import TimmImageConfig
from vle_lightning.errors import UserError

SMALL_SWIN = {"embed_dim": 8, "depths": [1, 2, 1], "num_heads": [1, 2, 4]}  # patches of 16 pixels behind two mergers
SMALL_VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2}
NAMES: dict[str, tuple[dict[str, Any], int]] = {
    "vit_base_patch16_siglip_224": (SMALL_VIT, 0),
    "deit3_small_patch16_224": (SMALL_VIT, 1),
    "beit_base_patch16_224": (SMALL_VIT, 1),
    "vit_base_patch16_dinov3": (SMALL_VIT, 5),
    "swin_tiny_patch4_window7_224": (SMALL_SWIN, 0),
    "swinv2_tiny_window16_256": (SMALL_SWIN, 0),
}
names = pytest.mark.parametrize("name", NAMES)


def config(name: str, image_size: int = 64) -> TimmImageConfig:
    return TimmImageConfig(image_size, name, options=NAMES[name][0])


def windows(encoder: Any) -> list[tuple[int, int]]:  # noqa: ANN401
    return [block.window_size for block in encoder.layers]


@names
@torch.no_grad()
def test_the_states_are_those_of_the_library(name: str) -> None:
    torch.manual_seed(0)
    encoder, pixels = config(name).build().eval(), torch.randn(2, 3, 64, 64)
    options, prefix = NAMES[name]
    window: dict[str, Any] = {"window_size": windows(encoder)[0]} if options is SMALL_SWIN else {}
    theirs: Any = timm.create_model(name, num_classes=0, global_pool="", img_size=64, **options, **window).eval()
    theirs.load_state_dict(encoder.model.state_dict())
    states = theirs.forward_features(pixels)
    states = states.flatten(1, 2) if states.dim() == 4 else states  # Swin's, row by row
    stream = encoder(pixels)
    torch.testing.assert_close(stream.states, states, rtol=0, atol=0)
    assert stream.mask.all()
    assert encoder.layout == (prefix, 16)
    assert stream.states.shape == (2, prefix + 16, encoder.width)
    assert encoder.mean_pooled == (prefix == 0)
    assert encoder.pixels.mean == pytest.approx(theirs.pretrained_cfg["mean"])


@names
@torch.no_grad()
def test_resizing_gives_the_encoder_that_is_made_for_that_size(name: str) -> None:
    torch.manual_seed(0)
    encoder, other = config(name).build().eval(), config(name, 96).build().eval()
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    encoder.resize(96)
    other.load_state_dict(encoder.state_dict())  # the same shapes
    pixels = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(encoder(pixels).states, other(pixels).states)
    assert encoder(pixels).states.shape[1] == NAMES[name][1] + 36
    encoder.resize(96)
    torch.testing.assert_close(encoder(pixels).states, other(pixels).states)
    same = [key for key, tensor in encoder.state_dict().items() if tensor.shape == before[key].shape]
    assert all(torch.equal(encoder.state_dict()[key], before[key]) for key in same)


@names
@pytest.mark.parametrize("way", ["vector", "pixels"])
@torch.no_grad()
def test_hidden_patches_are_those_of_the_grid(name: str, way: str) -> None:
    torch.manual_seed(0)
    encoder, pixels = config(name).build().eval(), torch.randn(2, 3, 64, 64)
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[0, 1, 2], hidden[1, 3] = True, True
    vector = torch.randn(encoder.hidden_width) if way == "vector" else None
    seen: list[Tensor] = []
    handle = encoder.model.patch_embed.register_forward_hook(lambda module, inputs, output: seen.append(output))
    plain = encoder(pixels).states
    masked = encoder(pixels, PatchMask(hidden.flatten(1), vector)).states
    handle.remove()
    other = pixels.clone()
    other[0, :, 16:32, 32:48], other[1, :, 48:] = 7.0, -7.0
    torch.testing.assert_close(encoder(other, PatchMask(hidden.flatten(1), vector)).states, masked)
    assert not torch.allclose(plain, masked)
    black = torch.tensor(encoder.pixels.black)[:, None, None]
    if vector is None:
        shown = torch.where(hidden.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None], black, pixels)
        torch.testing.assert_close(encoder(shown).states, masked)
    nothing = encoder(pixels, PatchMask(torch.zeros(2, 16, dtype=torch.bool), vector)).states
    torch.testing.assert_close(nothing, plain)


@torch.no_grad()
def test_the_vector_stands_before_the_positions() -> None:
    encoder = config("deit3_small_patch16_224").build().eval()
    vector, everywhere = torch.randn(16), torch.ones(1, 16, dtype=torch.bool)
    inputs: list[Tensor] = []
    encoder.layers[0].register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    encoder(torch.randn(1, 3, 64, 64), PatchMask(everywhere, vector))
    positions = encoder.model.pos_embed
    torch.testing.assert_close(inputs[0][:, -16:], vector + positions[:, -16:])


@torch.no_grad()
def test_each_row_may_have_its_own_vector() -> None:
    encoder, pixels = (
        config("swin_tiny_patch4_window7_224").build().eval(),
        torch.randn(1, 3, 64, 64).repeat(2, 1, 1, 1),
    )
    hidden, vectors = torch.ones(2, 16, dtype=torch.bool), torch.randn(2, 1, 8)
    together = encoder(pixels, PatchMask(hidden, vectors)).states
    for row in range(2):
        alone = encoder(pixels[:1], PatchMask(hidden[:1], vectors[row, 0])).states
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize(
    ("name", "image_size", "window"),
    [
        ("swin_tiny_patch4_window7_224", 224, 7),
        ("swin_tiny_patch4_window7_224", 384, 12),  # METER: 384 / 32
        ("swin_base_patch4_window12_384", 576, 18),
        ("swin_base_patch4_window12_384", 224, 7),
        ("swinv2_tiny_window16_256", 256, 16),  # as published: two grids of the last stage
        ("swinv2_tiny_window8_256", 384, 12),
    ],
)
def test_swins_window_grows_with_the_picture(name: str, image_size: int, window: int) -> None:
    options = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
    made = TimmImageConfig(image_size, name, options=options).build()
    published: Any = timm.get_pretrained_cfg(name)
    resized = TimmImageConfig(published.input_size[-1], name, options=options).build()
    resized.resize(image_size)
    assert windows(made)[0] == windows(resized)[0] == (window, window)
    assert windows(made)[-1] == (image_size // 32, image_size // 32)  # no more than there is


def test_a_window_that_options_give_stays() -> None:
    encoder = TimmImageConfig(64, "swin_tiny_patch4_window7_224", options={**SMALL_SWIN, "window_size": 2}).build()
    assert set(windows(encoder)) == {(2, 2)}
    encoder.resize(96)
    assert set(windows(encoder)) == {(2, 2)}
    assert encoder(torch.randn(1, 3, 96, 96)).states.shape == (1, 36, 32)


def test_withheld_weights_stay_so_when_they_are_resized() -> None:
    for name in NAMES:
        encoder = config(name).build().requires_grad_(False)
        encoder.resize(96)
        assert not any(parameter.requires_grad for parameter in encoder.parameters())


SWIN = TimmImageConfig(64, "swin_tiny_patch4_window7_224", options=SMALL_SWIN)
VIT = TimmImageConfig(64, "vit_base_patch16_siglip_224", options=SMALL_VIT)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (replace(VIT, name="no_such_model"), "timm has no such model"),
        (replace(VIT, name="resnet50"), "resnet50 is not a vision transformer"),
        (replace(VIT, name="convnext_tiny"), "convnext_tiny is not a vision transformer"),
        (replace(VIT, name="cait_xxs24_224", options={}), "cait_xxs24_224 is not a vision transformer"),
        (
            replace(VIT, name="vit_small_r26_s32_224", options={}),
            "r26_s32_224 is not a vision transformer",
        ),  # behind a CNN
        (
            replace(VIT, name="naflexvit_base_patch16_gap", options={"depth": 1}),
            "patch16_gap is not a vision transformer",
        ),
        (replace(VIT, image_size=50), "50 pixels are no multiple of the patches of vit_base_patch16_siglip_224, 16"),
        (replace(SWIN, image_size=72), "72 pixels are no multiple of the patches of swin_tiny_patch4_window7_224, 16"),
        (replace(VIT, options={"colour": 3}), "with these options: .*'colour'"),
        (replace(VIT, options={**SMALL_VIT, "pretrained": True}), "options holds pretrained, which no option sets"),
        (
            replace(VIT, options={"num_classes": 3, "checkpoint_path": "x"}),
            "options holds checkpoint_path, num_classes",
        ),
        (replace(SWIN, options={**SMALL_SWIN, "drop_path_rate": 0.1}), "options holds drop_path_rate"),
        (replace(VIT, options={**SMALL_VIT, "num_heads": 3}), "divisible by num_heads"),
        (replace(VIT, options={**SMALL_VIT, "num_heads": 0}), "cannot build"),
        (replace(VIT, options={**SMALL_VIT, "depth": 0}), "give a depth of at least 1"),
        (replace(SWIN, options={**SMALL_SWIN, "depths": []}), "cannot build"),
        (replace(SWIN, options={**SMALL_SWIN, "window_size": 0}), "Window sizes must be positive"),
        (replace(VIT, mean=[0.5]), "give three numbers each"),
        (replace(VIT, std=[0.5, 0.5, 0.0]), "std > 0"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(wrong: TimmImageConfig, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        wrong.build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("made", [SWIN, VIT])
def test_pictures_of_another_size_are_refused(made: TimmImageConfig) -> None:
    encoder = made.build()
    with pytest.raises(UserError, match="no multiple of the patches, 16"):
        encoder.resize(72)
    with pytest.raises(UserError, match="made for 64 x 64 and takes no others"):
        encoder(torch.randn(1, 3, 64, 96))
