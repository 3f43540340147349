"""Losses and scores of the four objectives against arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.factories import CLASSES, of_kind, pretrain_batch
from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.encoders.base import CLIP_MEAN, CLIP_STD
from vle_lightning.encoders.clip_vit import ClipViT
from vle_lightning.errors import UserError
from vle_lightning.fusion.co_attention import CoAttention
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.presets import PRESETS
from vle_lightning.models.regions import box_patches
from vle_lightning.objectives.base import Hiding, Objective, ObjectiveOptions, ObjectiveOutput, find_objective
from vle_lightning.objectives.passes import fuse_views
from vle_lightning.streams import Fused, Stream
from vle_lightning.tasks.pretrain import PretrainTask

NAMES = ("mlm", "itm", "mpc", "pbc")


@pytest.fixture(scope="module")
def model() -> DualStream:
    torch.manual_seed(0)
    return DualStream(PRESETS["tiny"]).eval()


def make(name: str, model: DualStream, hiding: Hiding = "vector") -> Objective:
    torch.manual_seed(1)
    return find_objective(name).build(model, ObjectiveOptions(CLASSES, hiding)).eval()


def fuse(objective: Objective, model: DualStream, batch: PretrainBatch) -> Fused:
    (fused,) = fuse_views(model, batch, [objective.views], objective.vectors())
    return fused


def judge(objective: Objective, model: DualStream, batch: PretrainBatch) -> ObjectiveOutput:
    output: ObjectiveOutput = objective(fuse(objective, model, batch), batch)
    return output


def last_linear(objective: Objective) -> nn.Linear:
    return [part for part in objective.modules() if isinstance(part, nn.Linear)][-1]


def shares(output: ObjectiveOutput) -> dict[str, float]:
    return {score.name: float(score.hits / score.total) for score in output.scores}


@pytest.mark.parametrize(("name", "outcomes"), [("itm", 2), ("pbc", 2), ("mpc", CLASSES)])
@pytest.mark.parametrize("rows", [2, 5])
def test_an_ignorant_head_loses_the_log_of_the_outcomes(model: DualStream, name: str, outcomes: int, rows: int) -> None:
    objective = make(name, model)
    nn.init.zeros_(last_linear(objective).weight)
    output = judge(objective, model, pretrain_batch(rows))
    torch.testing.assert_close(output.loss, torch.tensor(math.log(outcomes)))


def test_mlm_is_the_cross_entropy_of_the_masked_words_alone(model: DualStream) -> None:
    batch = pretrain_batch()
    mlm = make("mlm", model)
    fused = fuse(mlm, model, batch)
    everywhere = mlm.logits(fused.text)  # type: ignore[operator]
    expected = F.cross_entropy(everywhere.flatten(0, 1), batch.mlm_targets.flatten(), ignore_index=IGNORED)
    output = mlm(fused, batch)
    torch.testing.assert_close(output.loss, expected)
    assert output.judged == (batch.mlm_targets != IGNORED).sum()
    right = everywhere.argmax(-1) == batch.mlm_targets
    assert shares(output)["mlm_accuracy"] == pytest.approx(float(right.sum() / output.judged))


def test_mlm_decodes_with_the_word_embeddings(model: DualStream) -> None:
    mlm = make("mlm", model)
    assert mlm.decoder.weight is model.text.word_embeddings.weight  # type: ignore[union-attr]


def test_itm_counts_a_shifted_text_as_no_match(model: DualStream) -> None:
    batch = pretrain_batch(rows=4)  # rows 0 and 1 are shifted
    itm = make("itm", model)
    last_linear(itm).weight.data.zero_()
    last_linear(itm).bias.data = torch.tensor([1.0, 0.0])  # always says: no match
    output = judge(itm, model, batch)
    assert shares(output) == {"itm_accuracy": 0.5}
    loss = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(output.loss) == pytest.approx(loss)


def blacken(pixel_values: Tensor, patches: Tensor) -> Tensor:
    """Make patches (6 x 6) of one picture (3, 48, 48) black."""
    black = torch.tensor([-mean / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)])
    for patch in patches.nonzero()[:, 0].tolist():
        row, column = 8 * (patch // 6), 8 * (patch % 6)
        pixel_values[:, row : row + 8, column : column + 8] = black[:, None, None]
    return pixel_values


def test_mpc_classifies_the_fused_token_of_each_hidden_box(model: DualStream) -> None:
    batch = pretrain_batch(rows=3)  # one, two and one hidden box
    mpc = make("mpc", model, "pixels")
    losses = []
    for row, boxes in enumerate((1, 2, 1)):
        patches = box_patches(batch.hidden_boxes[row, :boxes], (6, 6))
        image = model.encode_image(blacken(batch.pixel_values[row].clone(), patches.any(0))[None])
        tokens = torch.stack([image.states[0, 1:][of].mean(0) for of in patches])
        mask = torch.ones(1, 37 + boxes, dtype=torch.bool)
        text = model.encode_text(batch.input_ids[row : row + 1], batch.attention_mask[row : row + 1])
        fused = model.fuse(text, Stream(torch.cat([image.states, tokens[None]], dim=1), mask))
        logits = mpc.get_submodule("region_head")(fused.image[0, 37:])
        losses.append(F.cross_entropy(logits, batch.hidden_classes[row, :boxes], reduction="none"))
    output = judge(mpc, model, batch)
    assert output.judged == 4
    torch.testing.assert_close(output.loss, torch.cat(losses).mean())


def test_mpc_trains_tower_projection_and_fusion_through_the_region_token() -> None:
    torch.manual_seed(0)
    model = DualStream(PRESETS["tiny"]).eval()
    batch = pretrain_batch()
    given = []  # the states of the image that fusion is given
    handle = model.fusion.register_forward_pre_hook(lambda _, streams: given.append(streams[1].states))
    fused = fuse(mpc := make("mpc", model), model, batch)
    handle.remove()
    given[0].retain_grad()
    mpc(fused, batch).loss.backward()
    reached = given[0].grad[:, 37:].abs().sum(-1)
    assert torch.equal(reached > 0, batch.hidden_classes >= 0)
    tower, fusion = of_kind(ClipViT, model.image).encoder, of_kind(CoAttention, model.fusion).image
    for part in (tower, model.image_projection, fusion, model.token_types):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()), part
    assert mpc.mask_vector is not None
    assert mpc.mask_vector.grad is not None
    assert mpc.mask_vector.grad.abs().sum() > 0


@pytest.mark.parametrize("hiding", ["vector", "pixels"])
def test_a_region_token_changes_no_other_objective_by_a_bit(model: DualStream, hiding: Hiding) -> None:
    batch = pretrain_batch(rows=6)
    objectives = [make(name, model, hiding) for name in NAMES]
    others = [objective for objective in objectives if objective.name != "mpc"]
    (mpc,) = (objective for objective in objectives if objective.name == "mpc")
    together = fuse_views(model, batch, [objective.views for objective in objectives], mpc.vectors())
    apart = fuse_views(model, batch, [objective.views for objective in others])
    kept = [view for objective, view in zip(objectives, together, strict=True) if objective.name != "mpc"]
    for objective, one, other in zip(others, kept, apart, strict=True):
        assert torch.equal(objective(one, batch).loss, objective(other, batch).loss), objective.name
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), objective.name


def test_pbc_judges_the_patches_of_matching_pairs_alone(model: DualStream) -> None:
    batch = pretrain_batch(rows=4)
    pbc = make("pbc", model)
    last_linear(pbc).weight.data.zero_()
    last_linear(pbc).bias.data = torch.tensor([0.0, 1.0])  # every patch is mentioned
    output = judge(pbc, model, batch)
    mentioned = box_patches(batch.boxes[2:, 1], (6, 6))
    share = float(mentioned.float().mean())
    assert output.judged == 2 * 36
    assert shares(output)["pbc_iou"] == pytest.approx(share)
    expected = share * math.log(1 + math.exp(-1)) + (1 - share) * math.log(1 + math.exp(1))
    assert float(output.loss) == pytest.approx(expected, rel=1e-5)


def test_pbc_has_no_target_where_the_text_mentions_no_box(model: DualStream) -> None:
    batch = pretrain_batch(rows=4)
    mentioned = batch.box_mentioned.clone()
    mentioned[3] = False
    assert judge(make("pbc", model), model, replace(batch, box_mentioned=mentioned)).judged == 36


def nothing_to_do(batch: PretrainBatch) -> PretrainBatch:
    return replace(
        batch,
        mlm_targets=torch.full_like(batch.mlm_targets, IGNORED),
        hidden_classes=torch.full_like(batch.hidden_classes, -1),
        box_mentioned=torch.zeros_like(batch.box_mentioned),
    )


@pytest.mark.parametrize("name", ["mlm", "mpc", "pbc"])
def test_a_batch_without_work_is_an_exact_zero_that_reaches_the_head(model: DualStream, name: str) -> None:
    objective = make(name, model)
    output = judge(objective, model, nothing_to_do(pretrain_batch()))
    assert output.loss.item() == 0.0
    assert output.judged == 0
    output.loss.backward()
    for key, parameter in objective.named_parameters():
        assert parameter.grad is not None, key
        assert torch.equal(parameter.grad, torch.zeros_like(parameter)), key


def without_columns(batch: PretrainBatch) -> PretrainBatch:
    """Take the columns of boxes away, as in a batch of pictures none of which has a box."""
    names = ("boxes", "box_valid", "box_mentioned", "hidden_boxes", "hidden_classes")
    tensors: dict[str, Any] = {name: getattr(batch, name)[:, :0] for name in names}
    return replace(batch, **tensors)


@pytest.mark.parametrize("hiding", ["vector", "pixels"])
def test_boxes_of_no_column_are_as_no_boxes(hiding: Hiding) -> None:
    reached = []
    for change in (without_columns, nothing_to_do):
        torch.manual_seed(0)
        task = PretrainTask("tiny", dict.fromkeys(NAMES, 1.0), classes=CLASSES, hiding=hiding)
        outputs = task.judge(change(pretrain_batch()))
        assert [int(outputs[name].judged) for name in ("mpc", "pbc")] == [0, 0]
        assert [float(outputs[name].loss) for name in ("mpc", "pbc")] == [0.0, 0.0]
        torch.stack([output.loss for output in outputs.values()]).sum().backward()
        reached.append({name: parameter.grad is not None for name, parameter in task.named_parameters()})
        for name in ("mpc", "pbc"):
            gradients = [parameter.grad for parameter in task.objectives[name].parameters()]
            assert all(torch.equal(found, torch.zeros_like(found)) for found in gradients if found is not None)
    assert reached[0] == reached[1]
    assert all(reached[0].values())


@pytest.mark.parametrize("name", NAMES)
def test_filler_rows_count_nowhere(model: DualStream, name: str) -> None:
    objective = make(name, model)
    batch = pretrain_batch(rows=5)
    partner = torch.tensor([1, 0, 2, 3, 4])
    whole = replace(batch, partner=partner, valid=torch.tensor([True] * 4 + [False]))
    output, without = judge(objective, model, whole), judge(objective, model, first_rows(whole, 4))
    torch.testing.assert_close(output.loss, without.loss)
    assert shares(output) == pytest.approx(shares(without))


def first_rows(batch: PretrainBatch, rows: int) -> PretrainBatch:
    tensors: dict[str, Any] = {key: value[:rows] for key, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, sample_ids=batch.sample_ids[:rows], texts=batch.texts[:rows], **tensors)


def test_weights_of_zero_alone_are_refused() -> None:
    PretrainTask("tiny", {"mlm": 1.0, "itm": 0.0}, classes=5)  # a score that is watched
    with pytest.raises(UserError, match="all weights are 0"):
        PretrainTask("tiny", {"mlm": 0.0, "itm": 0.0}, classes=5)


def test_an_unknown_objective_is_named_with_the_known_ones() -> None:
    known = "itc, itm, itm_hard, mim_codes, mim_contrast, mlm, mpc, pbc"
    with pytest.raises(UserError, match=f"no objective 'itn'; choose among {known}"):
        find_objective("itn")
