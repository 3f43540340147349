"""ITM and PBC on pairs with images drawn from the whole data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.factories import CODES, SIZE, pretrain_batch
from vle_lightning.batch import PretrainBatch
from vle_lightning.plan.kinds import Sample
from vle_lightning.plan.workload import pretraining_workload
from vle_lightning.tasks.pretrain import PretrainTask

ALL = ("mlm", "itm", "mpc", "pbc", "mim_contrast", "mim_codes")


def drawing(rows: int = 4) -> PretrainBatch:
    """Rows 1 and 2 have drawn images; that of row 2 is its own by chance, cut in another way."""
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    partner = torch.arange(rows)
    partner[1] = -1
    return replace(pretrain_batch(rows), partner=partner, drawn_rows=torch.tensor([1, 2]), drawn_pixel_values=pixels)


def make_task(*names: str) -> PretrainTask:
    torch.manual_seed(0)
    return PretrainTask("tiny", dict.fromkeys(names, 1.0), classes=24, codes=CODES).eval()


def shown(batch: PretrainBatch) -> PretrainBatch:
    """Put the drawn images in the place of their rows' own."""
    pixels = batch.pixel_values.index_copy(0, batch.drawn_rows, batch.drawn_pixel_values)
    return replace(batch, pixel_values=pixels)


@pytest.mark.parametrize("names", [("itm",), ALL])
def test_itm_judges_the_texts_beside_the_drawn_images(names: tuple[str, ...]) -> None:
    task, batch = make_task(*names), drawing()
    output = task.judge(batch)["itm"]
    pairs = shown(batch)
    text = task.model.encode_text(pairs.input_ids, pairs.attention_mask)
    pooled = task.model.fuse(text, task.model.encode_image(pairs.pixel_values)).pooled
    logits = task.objectives["itm"].get_submodule("head")(pooled)
    expected = F.cross_entropy(logits, torch.tensor([1, 0, 1, 1]))
    torch.testing.assert_close(output.loss, expected)


def test_pbc_judges_pairs_with_their_own_image_alone() -> None:
    batch = drawing()
    batch = replace(batch, box_mentioned=torch.ones_like(batch.box_mentioned))
    output = make_task("itm", "pbc").judge(batch)["pbc"]
    own = replace(batch, valid=torch.tensor([True, False, False, True]))
    assert output.judged == 2 * 36
    plain = replace(own, partner=torch.arange(4), drawn_rows=batch.drawn_rows[:0])
    torch.testing.assert_close(output.loss, make_task("itm", "pbc").judge(plain)["pbc"].loss)


def test_the_other_objectives_do_not_see_drawn_images() -> None:
    batch = drawing()
    other = replace(batch, drawn_pixel_values=torch.zeros_like(batch.drawn_pixel_values))
    task = make_task(*ALL)
    one, two = task.judge(batch), task.judge(other)
    for name in ALL:
        assert torch.allclose(one[name].loss, two[name].loss) == (name != "itm")


@pytest.mark.parametrize(("names", "images"), [(("mlm",), 4), (("mlm", "itm"), 6), (("itm", "mpc"), 10), (ALL, 14)])
def test_only_drawn_images_are_encoded_more_and_all_in_one_call(names: tuple[str, ...], images: int) -> None:
    task = make_task(*names)
    with task.model.calls() as calls:
        task.judge(drawing())
    assert [call.sizes[0] for call in calls if call.way == "image"] == [images]


def test_drawn_images_teach_the_image_encoder() -> None:
    batch = drawing()
    pixels = batch.drawn_pixel_values.clone().requires_grad_()
    make_task(*ALL).judge(replace(batch, drawn_pixel_values=pixels))["itm"].loss.backward()
    assert pixels.grad is not None
    assert pixels.grad.flatten(1).any(1).all()


@pytest.mark.slow
def test_a_plan_counts_drawn_images_and_hidden_patches() -> None:
    sample = Sample(10, 48, patches=0.15)
    plain, drawn = (
        pretraining_workload("tiny", 4, sample._replace(drawn=share), {"itm": 1.0}).flops() for share in (0.0, 0.5)
    )
    assert drawn["image"] == pytest.approx(1.5 * plain["image"])
    assert drawn["fusion"] == plain["fusion"]
    width = 32
    contrast = pretraining_workload("tiny", 4, sample, {"mim_contrast": 1.0}).flops()
    # 4 * 5 of 4 * 36 hidden patches, filled to 24, through one projection; all of the whole images, without a gradient,
    # through the other
    assert contrast["heads"] == 2 * width**2 * (3 * 24 / 4 + 2 * 36)
    codes = pretraining_workload("tiny", 4, sample, {"mim_codes": 1.0}, codes=CODES).flops()
    assert codes["heads"] == 3 * 2 * 24 / 4 * (width**2 + width * CODES)
