"""Images encoded alone, layer by layer: dual streams and VLMo, and what UperNet makes of the states."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from tests.factories import dual, of_kind, pretrain_batch
from vle_lightning.encoders.timm_image import TimmImageConfig
from vle_lightning.errors import UserError
from vle_lightning.models.backbone import BackboneConfig, Modality
from vle_lightning.models.dual_stream import DualStreamConfig
from vle_lightning.models.mome import MoME, MoMEConfig
from vle_lightning.models.presets import EXPERTS, PRESETS
from vle_lightning.models.upernet import UperNet, group_norm, halved, pyramid_depths
from vle_lightning.plan.outline import OutlineConfig
from vle_lightning.tasks.image_alone import train_image_path

MOME = MoMEConfig(40, 8, 256, 32, 4, 4, 64, 2, 32, drop_path=0.0)
TOY = of_kind(DualStreamConfig, PRESETS["toy"])
BEIT = {"depth": 2, "embed_dim": 48, "num_heads": 4}
TIMM = replace(TOY, image=TimmImageConfig(32, "beit_base_patch16_224", options=BEIT))
SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1), "window_size": 4}
STAGES = replace(TOY, image=TimmImageConfig(32, "swin_tiny_patch4_window7_224", options=SWIN))


@pytest.mark.parametrize("config", [TOY, MOME, TIMM], ids=["dual_stream", "mome", "timm"])
def test_states_are_those_of_each_depth(config: BackboneConfig) -> None:
    torch.manual_seed(0)
    model = config.build().eval()
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    with torch.no_grad():
        every = model.image_layers(pixels, range(1, model.image_depth + 1))
        (last,) = model.image_layers(pixels, [model.image_depth])
        plain = model.features(None, pixels).image
    assert plain is not None
    assert len(every) == model.image_depth
    assert torch.equal(every[-1].states, last.states)
    assert len({float(stream.states.sum()) for stream in every}) == len(every)
    assert all(stream.states.shape == plain.states.shape and stream.mask.all() for stream in every)
    norm = model.norm if isinstance(model, MoME) else getattr(dual(model).image, "post_norm", None)
    if norm is not None:
        torch.testing.assert_close(norm(last.states), plain.states)


def test_the_path_of_an_image_is_that_of_its_expert() -> None:
    model = of_kind(MoME, MOME.build()).eval()
    pixels = torch.randn(2, 3, 40, 40)
    (last,) = model.image_layers(pixels, [4])
    torch.testing.assert_close(last.states, model.encode_single(model.encode_image(pixels), "image"))


@pytest.mark.parametrize("config", [TOY, MOME, replace(MOME, positions="absolute"), TIMM])
@pytest.mark.parametrize("below", [0, 1])
def test_all_that_trains_gets_a_gradient_and_all_else_is_frozen(config: BackboneConfig, below: int) -> None:
    model = config.build()
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    depth = model.image_depth - below
    width = train_image_path(model, [depth])
    (stream,) = model.image_layers(torch.randn(2, 3, config.image_size, config.image_size), [depth])
    assert stream.states.shape[-1] == width
    (stream.states * torch.randn_like(stream.states)).sum().backward()
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"text", "fusion"} & {name.split(".")[0] for name in before - trains}
    assert not any(name.startswith(("text.", "fusion.")) or ".experts.text." in name for name in trains)


@pytest.mark.parametrize("depths", [[], [0], [2, 1], [1, 1], [3]])
def test_layers_that_are_not_there_are_refused(depths: list[int]) -> None:
    model = TOY.build()
    with pytest.raises(UserError, match="give rising numbers from 1 to 2"):
        model.image_layers(torch.zeros(1, 3, 48, 48), depths)


def test_what_has_no_such_layers_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="a TimmImageEncoder in stages has layers of different grids"):
        STAGES.build().image_layers(torch.zeros(1, 3, 32, 32), [1, 2])
    outline = OutlineConfig().build()  # of no layers
    with pytest.raises(UserError, match="a Outline does not encode images alone"):
        outline.image_layers(torch.zeros(1, 3, 32, 32), [1])


def test_depths_are_beits() -> None:
    assert pyramid_depths(12) == [4, 6, 8, 12]
    assert pyramid_depths(24) == [8, 12, 16, 24]
    assert [pyramid_depths(depth) for depth in (1, 2, 3)] == [[1, 1, 1, 1], [1, 1, 1, 2], [1, 2, 2, 3]]


@pytest.mark.parametrize("grid", [(6, 6), (5, 7), (1, 1)])
def test_upernet_scores_four_times_the_grid(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = UperNet(8, 6, 3, auxiliary=True)
    states = [torch.randn(2, grid[0] * grid[1], 8) for _ in range(4)]
    maps = head(states, grid)
    assert maps.logits.shape == (2, 3, 4 * grid[0], 4 * grid[1])
    assert maps.auxiliary is not None
    assert maps.auxiliary.shape == (2, 3, *grid)
    assert head.eval()(states, grid).auxiliary is None
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in head.modules())


def test_an_image_is_scored_alike_in_any_batch() -> None:
    torch.manual_seed(0)
    head, states = UperNet(8, 6, 3, auxiliary=False), [torch.randn(3, 16, 8) for _ in range(4)]
    whole = head(states, (4, 4)).logits
    apart = torch.cat([head([part[row, None] for part in states], (4, 4)).logits for row in range(3)])
    torch.testing.assert_close(whole, apart)


def test_scales_read_the_depths_that_are_theirs() -> None:
    """A scale whose input is zero changes nothing: the others' gradients stay."""
    head = UperNet(8, 6, 3, auxiliary=False)
    states = [torch.randn(1, 16, 8, requires_grad=True) for _ in range(4)]
    seen: list[tuple[int, ...]] = []
    with patch.object(head.decode_head, "forward", wraps=head.decode_head.forward) as forward:
        head(states, (4, 4)).logits.sum().backward()
    seen = [tuple(part.shape) for part in forward.call_args.args[0]]
    assert seen == [(1, 8, 16, 16), (1, 8, 8, 8), (1, 8, 4, 4), (1, 8, 2, 2)]
    assert all(state.grad is not None and state.grad.abs().sum() > 0 for state in states)
    pyramid = forward.call_args.args[0]
    torch.testing.assert_close(pyramid[2], states[2].transpose(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(pyramid[3], halved(states[3].transpose(1, 2).unflatten(2, (4, 4))))


@pytest.mark.parametrize(("channels", "groups"), [(512, 32), (32, 16), (6, 2), (3, 1), (1, 1), (48, 16)])
def test_groups_hold_at_least_two_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "image"])
def test_without_experts_for_pairs_both_ways_alone_are_one(modality: Modality) -> None:
    model, batch = replace(EXPERTS["vlmo-tiny"], fusion_layers=0).build().eval(), pretrain_batch()
    text, image = model.encode_text(batch.input_ids, batch.attention_mask), model.encode_image(batch.pixel_values)
    one, other = model.encode_alone(text if modality == "text" else image, modality)
    assert torch.equal(one.states, other.states)
    whole = model.encode_unimodal(text if modality == "text" else image, modality)
    torch.testing.assert_close(one.states, whole[:, :1])
