"""The dual-stream encoder: sizes, padding, views encoded once, blind baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from tests.factories import pretrain_batch, vcr_batch
from vle_lightning.models.backbone import Blind
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.presets import PRESETS
from vle_lightning.models.regions import box_patches
from vle_lightning.objectives.passes import fuse_views
from vle_lightning.streams import FusedView, ImageView, Pairing, TextView

VIEWS = (
    FusedView(text=TextView.MASKED),
    FusedView(pairing=Pairing.HALF_SHIFTED),
    FusedView(image=ImageView.MASKED),
    FusedView(pairing=Pairing.HALF_SHIFTED),
)


@pytest.fixture
def model() -> DualStream:
    torch.manual_seed(0)
    return DualStream(PRESETS["tiny"]).eval()


@pytest.mark.parametrize(("preset", "published"), [("vle-base", 378e6), ("vle-large", 930e6)])
def test_presets_count_the_published_parameters(preset: str, published: float) -> None:
    with torch.device("meta"):
        model = DualStream(PRESETS[preset])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(published, rel=0.025)


def test_padding_of_the_text_changes_nothing(model: DualStream) -> None:
    batch = pretrain_batch()
    more = torch.nn.functional.pad
    image = model.encode_image(batch.pixel_values)
    short = model.fuse(model.encode_text(batch.input_ids, batch.attention_mask), image)
    text = model.encode_text(more(batch.input_ids, (0, 5)), more(batch.attention_mask, (0, 5)))
    long = model.fuse(text, image)
    torch.testing.assert_close(long.pooled, short.pooled)
    torch.testing.assert_close(long.image, short.image)
    real = batch.attention_mask
    torch.testing.assert_close(long.text[:, : real.shape[1]][real], short.text[real])


def test_padding_of_the_regions_changes_nothing(model: DualStream) -> None:
    batch = pretrain_batch()
    text, image = (
        model.encode_text(batch.input_ids, batch.attention_mask),
        model.encode_image(batch.pixel_values),
    )
    regions = model.pool_regions(image, box_patches(batch.boxes, (6, 6)), batch.box_valid)
    hidden = torch.zeros_like(batch.box_valid)
    states = torch.cat([image.states, regions.states], dim=1)
    masked = image._replace(states=states, mask=torch.cat([image.mask, hidden], dim=1))
    torch.testing.assert_close(model.fuse(text, masked).pooled, model.fuse(text, image).pooled)


@pytest.mark.parametrize("size", [(48, 48), (64, 32), (24, 56)])
def test_any_size_that_the_patches_divide_works(model: DualStream, size: tuple[int, int]) -> None:
    states = model.encode_image(torch.randn(2, 3, *size)).states
    assert states.shape == (2, 1 + size[0] * size[1] // 64, model.width)


def test_a_size_that_the_patches_do_not_divide_is_refused(model: DualStream) -> None:
    with pytest.raises(ValueError, match="50 x 48 pixels is not a multiple of patch size 8"):
        model.encode_image(torch.randn(1, 3, 50, 48))


def test_each_distinct_view_is_encoded_once_and_fused_in_a_call_for_each_form_of_the_image(model: DualStream) -> None:
    batch = pretrain_batch(rows=4)
    vector = torch.zeros(model.hidden_width)
    with (
        patch.object(model.text, "forward", wraps=model.text.forward) as text,
        patch.object(model.image, "forward", wraps=model.image.forward) as image,
        patch.object(model.fusion, "forward", wraps=model.fusion.forward) as fusion,
    ):
        fused = fuse_views(model, batch, VIEWS, {ImageView.MASKED: vector})
    assert (text.call_count, image.call_count, fusion.call_count) == (1, 1, 2)
    assert len(text.call_args.args[0]) == 8  # clean and masked
    assert len(image.call_args.args[0]) == 8
    clean, hidden = (call.args[1].states for call in fusion.call_args_list)
    assert (len(clean), len(hidden)) == (8, 4)  # two distinct pairings with the clean image, one with hidden boxes
    assert (clean.shape[1], hidden.shape[1]) == (37, 39)  # two region tokens
    assert fused[1] is fused[3]


def test_views_fused_together_equal_views_fused_alone(model: DualStream) -> None:
    batch = pretrain_batch(rows=4)
    vector = torch.randn(model.hidden_width)
    together = fuse_views(model, batch, VIEWS, {ImageView.MASKED: vector})
    for view, expected in zip(VIEWS, together, strict=True):
        (alone,) = fuse_views(model, batch, [view], {ImageView.MASKED: vector})
        torch.testing.assert_close(alone.pooled, expected.pooled)
        torch.testing.assert_close(alone.image, expected.image)


def test_a_shifted_pair_is_the_image_with_its_partners_text(model: DualStream) -> None:
    batch = pretrain_batch(rows=4)
    (shifted,) = fuse_views(model, batch, [FusedView(pairing=Pairing.HALF_SHIFTED)])
    text = model.encode_text(batch.input_ids[batch.partner], batch.attention_mask[batch.partner])
    expected = model.fuse(text, model.encode_image(batch.pixel_values))
    torch.testing.assert_close(shifted.pooled, expected.pooled)


def test_hidden_patches_leave_no_trace_of_their_pixels(model: DualStream) -> None:
    batch = pretrain_batch(rows=2)
    left = torch.tensor([0.0, 0.0, 0.5, 1.0]).repeat(2, 3, 1)
    batch = replace(batch, hidden_boxes=left[:, :1], hidden_classes=torch.zeros(2, 1, dtype=torch.long))
    pixels = batch.pixel_values.clone()
    pixels[..., :24] = torch.randn(2, 3, 48, 24)
    vectors = {ImageView.MASKED: torch.randn(model.hidden_width)}
    views: Sequence[FusedView] = [FusedView(image=ImageView.MASKED)]
    (one,) = fuse_views(model, batch, views, vectors)
    (other,) = fuse_views(model, replace(batch, pixel_values=pixels), views, vectors)
    torch.testing.assert_close(one.pooled, other.pooled)
    (clean,) = fuse_views(model, batch, [FusedView()])
    assert not torch.allclose(clean.pooled, one.pooled)


@pytest.mark.parametrize("blind", ["image", "text"])
def test_a_blind_model_does_not_depend_on_what_is_withheld(blind: Blind) -> None:
    model = DualStream(PRESETS["tiny"], blind).eval()
    one, other = vcr_batch(seed=0), vcr_batch(seed=1)
    image = model.encode_image(one.pixel_values if blind == "text" else other.pixel_values)
    text = model.encode_text(
        *(
            (one.input_ids[:, 0], one.attention_mask[:, 0])
            if blind == "image"
            else (other.input_ids[:, 0], other.attention_mask[:, 0])
        )
    )
    same = model.fuse(
        model.encode_text(one.input_ids[:, 0], one.attention_mask[:, 0]), model.encode_image(one.pixel_values)
    )
    torch.testing.assert_close(model.fuse(text, image).pooled, same.pooled)
    withheld = model.image if blind == "image" else model.text
    assert not any(parameter.requires_grad for parameter in withheld.parameters())
