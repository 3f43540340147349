"""Masked image modelling: losses and scores of its two forms against arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.factories import CODES, PATCHES, pretrain_batch
from vle_lightning.batch import IGNORED, DataFacts, PretrainBatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.presets import PRESETS
from vle_lightning.objectives.base import Hiding, Objective, ObjectiveOptions, ObjectiveOutput, find_objective
from vle_lightning.objectives.mim_contrast import TEMPERATURE
from vle_lightning.objectives.passes import Encoded, encode_views, fuse_encoded
from vle_lightning.streams import Fused, ImageView, Stream
from vle_lightning.tasks.pretrain import PretrainTask

MIM = ("mim_contrast", "mim_codes")


@pytest.fixture(scope="module")
def model() -> Backbone:
    torch.manual_seed(0)
    return PRESETS["tiny"].build().eval()


def make(name: str, model: Backbone, hiding: Hiding = "vector") -> Objective:
    torch.manual_seed(1)
    return find_objective(name).build(model, ObjectiveOptions(2, hiding, codes=CODES)).eval()


def make_task(*names: str, hiding: Hiding = "vector") -> PretrainTask:
    torch.manual_seed(0)
    return PretrainTask("tiny", dict.fromkeys(names, 1.0), classes=24, codes=CODES, hiding=hiding).eval()


def passed(objective: Objective, model: Backbone, batch: PretrainBatch) -> tuple[Fused, Encoded]:
    encoded = encode_views(model, batch, [objective.views], objective.vectors(), objective.reads)
    (fused,) = fuse_encoded(model, batch, encoded, [objective.views])
    return fused, encoded


def judge(objective: Objective, model: Backbone, batch: PretrainBatch) -> ObjectiveOutput:
    fused, encoded = passed(objective, model, batch)
    output: ObjectiveOutput = objective(fused, batch, *(encoded.images[kind] for kind in objective.reads))
    return output


def share(output: ObjectiveOutput) -> float:
    (score,) = output.scores
    return float(score.hits / score.total)


def test_an_ignorant_head_loses_the_log_of_the_codes(model: Backbone) -> None:
    codes = make("mim_codes", model)
    nn.init.zeros_(codes.get_submodule("head.3").weight)  # type: ignore[arg-type]
    torch.testing.assert_close(judge(codes, model, pretrain_batch()).loss, torch.tensor(math.log(CODES)))


def test_candidates_that_are_all_alike_lose_the_log_of_their_number(model: Backbone) -> None:
    contrast = make("mim_contrast", model)
    candidate = contrast.get_submodule("candidate")
    assert isinstance(candidate, nn.Linear)
    nn.init.zeros_(candidate.weight), nn.init.ones_(candidate.bias)
    batch = pretrain_batch(5)
    output = judge(contrast, model, replace(batch, valid=torch.arange(5) < 3))
    torch.testing.assert_close(output.loss, torch.tensor(math.log(3 * PATCHES)))
    assert output.judged == batch.hidden_patches[:3].sum()


def test_a_hidden_patch_is_found_among_all_patches() -> None:
    small = PRESETS["tiny"].build()
    contrast = make("mim_contrast", small)
    for projection in ("query", "candidate"):
        linear = contrast.get_submodule(projection)
        assert isinstance(linear, nn.Linear)
        nn.init.eye_(linear.weight), nn.init.zeros_(linear.bias)
    width, batch = small.width, pretrain_batch(1)
    hidden = torch.zeros(1, PATCHES, dtype=torch.bool)
    hidden[0, 5] = hidden[0, 7] = True
    batch = replace(batch, hidden_patches=hidden)
    prefix = small.layout.prefix
    # two kinds of patches: e0 at 5, e1 elsewhere. The state at 5 is e0, the one at 7 is e0 as well: it is wrong
    clean = torch.eye(width)[torch.ones(prefix + PATCHES, dtype=torch.long)].clone()
    clean[prefix + 5] = torch.eye(width)[0]
    fused = torch.eye(width)[torch.zeros(prefix + PATCHES, dtype=torch.long)]
    whole = torch.ones(1, prefix + PATCHES, dtype=torch.bool)
    output = contrast(
        Fused(torch.zeros(1, 2, width), 3 * fused[None], torch.zeros(1, 1)), batch, Stream(7 * clean[None], whole)
    )
    total = math.log(math.exp(1 / TEMPERATURE) + PATCHES - 1)
    torch.testing.assert_close(output.loss, torch.tensor((total - 1 / TEMPERATURE + total) / 2))
    assert share(output) == 0.5


def test_only_candidates_of_the_micro_batch_that_are_valid_count(model: Backbone) -> None:
    contrast, batch = make("mim_contrast", model), pretrain_batch(4)
    alone = judge(contrast, model, pretrain_batch(4))
    filled = replace(batch, valid=torch.arange(4) < 2)
    some = judge(contrast, model, filled)
    pixels = batch.pixel_values.clone()
    pixels[2:] = torch.randn(2, *pixels.shape[1:])
    torch.testing.assert_close(judge(contrast, model, replace(filled, pixel_values=pixels)).loss, some.loss)
    assert not torch.isclose(alone.loss, some.loss)


@pytest.mark.parametrize("hiding", ["vector", "pixels"])
@pytest.mark.parametrize("name", MIM)
def test_what_is_hidden_is_not_seen(model: Backbone, name: str, hiding: Hiding) -> None:
    objective, batch = make(name, model, hiding), pretrain_batch()
    pixels = batch.pixel_values.unflatten(2, (6, 8)).unflatten(4, (6, 8)).clone()  # (B, 3, rows, 8, columns, 8)
    for row, patch in batch.hidden_patches.nonzero().tolist():
        pixels[row, :, patch // 6, :, patch % 6] = 0.5
    other = replace(batch, pixel_values=pixels.flatten(4, 5).flatten(2, 3))
    torch.testing.assert_close(passed(objective, model, batch)[0], passed(objective, model, other)[0])
    shown = replace(batch, hidden_patches=~batch.hidden_patches)
    assert not torch.allclose(passed(objective, model, shown)[0].image, passed(objective, model, batch)[0].image)


def test_candidates_do_not_teach_the_image_encoder(model: Backbone) -> None:
    contrast, batch = make("mim_contrast", model), pretrain_batch()
    fused, encoded = passed(contrast, model, batch)
    clean = encoded.images[ImageView.CLEAN]
    states = clean.states.detach().requires_grad_()
    contrast(Fused(*(part.detach() for part in fused)), batch, Stream(states, clean.mask)).loss.backward()
    assert states.grad is None
    gradient = contrast.get_parameter("candidate.weight").grad
    assert gradient is not None
    assert gradient.any()


@pytest.mark.parametrize("nothing", ["hidden", "valid"])
@pytest.mark.parametrize("name", MIM)
def test_nothing_to_judge_is_a_zero_that_reaches_the_head(model: Backbone, name: str, nothing: str) -> None:
    objective, batch = make(name, model), pretrain_batch()
    none = (
        replace(batch, hidden_patches=torch.zeros_like(batch.hidden_patches))
        if nothing == "hidden"
        else replace(batch, valid=torch.zeros_like(batch.valid))
    )
    output = judge(objective, model, none)
    assert output.loss == 0
    assert output.judged == 0
    output.loss.backward()
    for parameter in objective.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_patches_without_a_code_are_left_out(model: Backbone) -> None:
    codes, batch = make("mim_codes", model), pretrain_batch()
    some = replace(batch, patch_codes=torch.where(torch.arange(PATCHES) < 18, batch.patch_codes, IGNORED))
    assert judge(codes, model, some).judged == batch.hidden_patches[:, :18].sum()


@pytest.mark.parametrize("others", [(), ("mlm", "itm"), ("itm", "mpc", "pbc")])
def test_mim_leaves_the_other_objectives_as_they_are(others: tuple[str, ...]) -> None:
    batch = pretrain_batch()
    together = make_task(*others, *MIM)
    outputs = together.judge(batch)
    assert list(outputs) == [*others, *MIM]
    for name in (*others, "mim_contrast"):  # mim_codes has the vector of the first of the two
        alone = make_task(name)
        alone.load_state_dict(together.state_dict(), strict=False)
        torch.testing.assert_close(alone.judge(batch)[name].loss, outputs[name].loss)


@pytest.mark.parametrize("names", [MIM, MIM[::-1]])
def test_the_first_vector_stands_for_hidden_patches_and_both_get_a_gradient(names: tuple[str, ...]) -> None:
    task, batch = make_task(*names), pretrain_batch()
    torch.stack([output.loss for output in task.judge(batch).values()]).sum().backward()
    first, second = (task.objectives[name].get_parameter("mask_vector").grad for name in names)
    assert first is not None
    assert second is not None
    assert first.any()
    assert not second.any()


def test_black_pixels_need_no_vector() -> None:
    task = make_task(*MIM, hiding="pixels")
    assert not [name for name, _ in task.named_parameters() if "mask_vector" in name]
    assert torch.isfinite(task.judge(pretrain_batch())["mim_codes"].loss)


def test_a_saved_task_comes_back_with_its_codes(tmp_path: Path) -> None:
    task, batch = make_task("mlm", *MIM), pretrain_batch()
    task.save_pretrained(tmp_path)
    again = PretrainTask.from_pretrained(tmp_path).eval()
    assert again.weights == {"mlm": 1.0, "mim_contrast": 1.0, "mim_codes": 1.0}
    outputs, expected = again.judge(batch), task.judge(batch)
    assert all(torch.equal(outputs[name].loss, expected[name].loss) for name in expected)


def test_data_that_does_not_fit_is_told() -> None:
    fitting = DataFacts(10, 48, patch_size=8, patch_share=0.15, codes=CODES)
    task = make_task(*MIM)
    assert task.disagreements(fitting) == []
    (told,) = task.disagreements(fitting._replace(patch_share=0.0))
    assert told.startswith("data.patch_share is 0, but model.objectives has mim_contrast and mim_codes: ")
    (told,) = task.disagreements(fitting._replace(codes=None))
    assert told.startswith("data.codebook is not set, but model.objectives has mim_codes")
    assert task.disagreements(fitting._replace(codes=7)) == ["data.codebook has 7 codes, but model.codes is 12"]
    assert make_task("mlm").disagreements(fitting._replace(patch_share=0.0, codes=None)) == []
    assert make_task("mim_contrast").disagreements(fitting._replace(codes=None)) == []
