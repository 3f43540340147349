"""Position tables on other grids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.factories import of_kind
from vle_lightning.encoders.clip_vit import ClipViT, ClipViTConfig
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.presets import PRESETS


def test_a_table_of_the_right_grid_is_left_alone() -> None:
    table = torch.randn(10, 4)
    assert resize_position_table(table, (3, 3)) is table


def test_the_cls_row_stays_and_a_constant_table_stays_constant() -> None:
    table = torch.cat([torch.full((1, 4), 9.0), torch.full((16, 4), 2.0)])
    resized = resize_position_table(table, (3, 7))
    assert resized.shape == (22, 4)
    torch.testing.assert_close(resized[0], table[0])
    torch.testing.assert_close(resized[1:], torch.full((21, 4), 2.0))


def test_rows_run_along_the_width() -> None:
    columns = torch.arange(4.0).repeat(4)[:, None]  # the position is the column
    resized = resize_position_table(torch.cat([torch.zeros(1, 1), columns]), (4, 8))[1:].reshape(4, 8)
    torch.testing.assert_close(resized[0], resized[3])
    assert (resized[0].diff() > 0).all()


@pytest.mark.parametrize("trains", [True, False])
def test_a_model_takes_the_table_of_its_pictures_size_and_computes_the_same(trains: bool) -> None:
    torch.manual_seed(0)
    model = DualStream(PRESETS["tiny"]).eval()
    model.image.requires_grad_(trains)
    encoder = of_kind(ClipViT, model.image)
    before, pictures = encoder.position_embedding.weight, torch.randn(2, 3, 64, 64)
    expected = model.encode_image(pictures).states  # 48 px, interpolated in every call
    model.resize_images(64)
    table = encoder.position_embedding.weight
    assert torch.equal(table, resize_position_table(before, (8, 8)))
    assert (len(table), table.requires_grad, model.config.image.image_size) == (65, trains, 64)
    torch.testing.assert_close(model.encode_image(pictures).states, expected)
    assert model.encode_image(torch.randn(1, 3, 48, 32)).states.shape[1] == 25  # other sizes still interpolate


def test_a_table_that_is_no_square_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="12 rows"):
        resize_position_table(torch.zeros(12, 4), (2, 2))


def test_positions_may_be_drawn_with_a_standard_deviation_of_their_own() -> None:
    torch.manual_seed(0)
    toy = PRESETS["toy"]
    for position_std, expected in ((None, toy.init_std), (0.5, 0.5)):
        assert isinstance(toy.image, ClipViTConfig)
        image = replace(toy, image=replace(toy.image, position_std=position_std)).build().image
        assert isinstance(image, ClipViT)
        assert image.position_embedding.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert image.patch_embedding.weight.std().item() == pytest.approx(toy.init_std, rel=0.1)
