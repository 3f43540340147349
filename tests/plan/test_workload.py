"""What a micro-batch of an experiment runs, from its configuration alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.factories import CLASSES, of_kind, pretrain_batch
from vle_lightning.batch import IGNORED
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.errors import UserError
from vle_lightning.flops import FlopRecorder
from vle_lightning.models.presets import PRESETS
from vle_lightning.plan.kinds import KINDS, Sample
from vle_lightning.plan.workload import find_workload, matrix_weights, pretraining_flops, pretraining_workload
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask


def test_a_plan_counts_what_the_run_counts() -> None:
    batch = pretrain_batch(rows=4, tokens=9)
    masked = int((batch.mlm_targets != IGNORED).sum())
    task = PretrainTask("tiny", classes=CLASSES)
    recorder = FlopRecorder(task)
    recorder.start()
    task.step(batch, Stage.VAL)
    planned = pretraining_flops("tiny", 4, Sample(9, 48, masked / 36, 6), classes=CLASSES)
    assert {part: 4 * flops for part, flops in planned.items()} == recorder.flops()


@pytest.mark.parametrize(
    ("name", "architecture", "sample", "options"),
    [
        ("pretrain_images", "vlmo-tiny", Sample(0, 48, 0.0, 0, patches=0.4), {"codes": 5, "freeze": ["image"]}),
        ("pretrain_texts", "vlmo-tiny", Sample(9, 0, 0.15, 0), {"freeze": ["blocks.attention", "blocks.norm"]}),
        ("classification", "tiny", Sample(0, 48, 0.0, 0), {"classes": 7}),
        ("classification", "vlmo-tiny", Sample(0, 64, 0.0, 0), {"classes": 7}),  # of another size than the model's
        ("segmentation", "tiny", Sample(0, 48, 0.0, 0), {"classes": 3, "channels": 8}),
    ],
)
def test_a_plan_of_one_modality_counts_what_the_run_counts(
    name: str, architecture: str, sample: Sample, options: dict[str, Any]
) -> None:
    kind = KINDS[name]
    task = kind.task(architecture, **options)
    if sample.image_size:
        task.model.resize_images(sample.image_size)
    recorder = FlopRecorder(task)
    recorder.start()
    task.step(kind.batch(4, sample, task.model.layout), Stage.VAL)
    workload = find_workload(name, architecture, 4, sample, **options)
    assert workload.recording == recorder.stop()
    assert {part: 4 * flops for part, flops in workload.flops().items()} == recorder.flops()
    own = [(p.numel(), p.requires_grad) for p in task.parameters()]
    assert [(p.numel(), p.requires_grad) for p in workload.task.parameters()] == own


ONE = [("text", 4), ("image", 4), ("fusion", 4)]  # one view of each


@pytest.mark.parametrize(
    ("objectives", "calls"),
    [
        ({"mlm": 1.0}, [*ONE, ("restore", 4)]),
        ({"itm": 1.0, "pbc": 1.0}, ONE),
        # MPC's pass has region tokens
        (None, [("text", 8), ("image", 8), ("fusion", 8), ("restore", 4), ("fusion", 4)]),
    ],
)
def test_views_follow_from_the_objectives(objectives: dict[str, float] | None, calls: list[tuple[str, int]]) -> None:
    workload = pretraining_workload("tiny", 4, Sample(10, 48), objectives)
    assert [(call.way, call.sizes[0]) for call in workload.recording.encoder] == calls


@pytest.mark.slow
def test_a_joint_pass_saves_a_fusion() -> None:
    sample = Sample(10, 224)  # not tiny, whose only layer is the last: it computes what is read alone
    apart, joint = (pretraining_workload("vle-base", 4, sample, passes=passes).flops() for passes in ("apart", "joint"))
    assert joint["text"] == apart["text"]
    assert joint["image"] == apart["image"]
    assert 0.6 < joint["fusion"] / apart["fusion"] < 0.7  # two passes of three, one of them with region tokens


def test_masked_tokens_are_the_share_that_is_expected() -> None:
    workload = pretraining_workload("tiny", 8, Sample(40, 48, masked=0.15))
    rows = {head.name: head.rows for head in workload.recording.heads}
    assert rows["objectives.mlm.decoder"] == 0.15 * 8 * 40
    assert rows["objectives.itm.head"] == 8
    assert rows["objectives.pbc.head.0"] == 8 * 36


@pytest.mark.parametrize(("name", "published"), [("vle-base", 378e6), ("vle-large", 930e6)])
def test_parameters_of_the_published_sizes(name: str, published: float) -> None:
    parameters = pretraining_workload(name, 2, Sample(8, 224)).parameters()
    encoder = sum(parameters[part][0] for part in ("text", "image", "fusion"))
    assert encoder == pytest.approx(published, rel=0.025)  # the model cards round, and leave out token types


def test_parameters_are_those_of_the_task() -> None:
    task = PretrainTask("toy", classes=24)
    workload = pretraining_workload("toy", 2, Sample(8, 48), classes=24)
    parameters = workload.parameters()
    assert sum(whole for whole, _ in parameters.values()) == sum(p.numel() for p in task.parameters())
    assert all(whole == trained for whole, trained in parameters.values())
    assert all(parameter.is_meta for parameter in workload.task.parameters())


def test_a_withheld_tower_does_not_train() -> None:
    parameters = pretraining_workload("tiny", 2, Sample(8, 48), {"mlm": 1.0}, blind="image").parameters()
    assert parameters["image"][0] > 0
    assert parameters["image"][1] == 0


def test_autocast_copies_a_tied_table_once() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 5))
    tied = torch.nn.Linear(5, 5, bias=False)
    tied.weight = layers.get_submodule("2").weight  # type: ignore[assignment]
    assert matrix_weights(torch.nn.Sequential(layers, tied)) == (3 * 5 + 5) + (5 * 5 + 5)


def test_pictures_of_other_sizes_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"data.image_size 50 .* patches, 8"):
        pretraining_workload("tiny", 2, Sample(8, 50))


def test_the_twin_is_of_any_depth() -> None:
    toy = PRESETS["toy"]
    deeper = replace(toy, text=replace(of_kind(DebertaConfig, toy.text), layers=4))
    sample = Sample(12, 48)
    assert pretraining_workload(deeper, 2, sample).recording == pretraining_workload(toy, 2, sample).recording


def test_a_decoder_of_mlms_own_is_counted() -> None:
    tied, own = (
        pretraining_workload("tiny", 2, Sample(8, 48), {"mlm": 1.0}, tied=tied).parameters() for tied in (True, False)
    )
    linear = 32 * 32 + 32  # VLE's head has one layer more, and no table of its own
    assert own["heads"][0] - tied["heads"][0] == 256 * 32 - linear
