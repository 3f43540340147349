"""TensorBoard's texts, charts and hyperparameters, read back from the event files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout as LayoutProto  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]

from tests.callbacks.test_callbacks import make_trainer
from vle_lightning.callbacks.dashboard import Dashboard, flatten, hyperparameters, layout, score_names
from vle_lightning.callbacks.recorder import RunLogger
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

COMMAND = "python -m vle_lightning fit --config experiments/vqa/toy.yaml"
SETTINGS = {
    "seed_everything": 3,
    "model": {
        "architecture": "tiny",
        "init": None,
        "blind": "image",
        "dropout": 0.25,
        "optim": {"lr": 0.5, "betas": [0.9, 0.98]},
    },
    "data": {"global_batch_size": 32, "workers": 4},
    "trainer": {"max_steps": 6, "max_epochs": None},
}
REFERENCES = {"floor/vqa_accuracy": 0.25, "ceiling/vqa_accuracy": 1.0}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """What a fit of VQA with two validations has written."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text("task: vqa\nmodel:\n  answers: 5\n")
    logger = RunLogger(folder)
    trainer = make_trainer(global_step=0, sanity_checking=False)
    trainer.loggers = [logger]
    task = VQATask(architecture="tiny", answers=5)
    dashboard = Dashboard(folder / "config.yaml", SETTINGS, COMMAND, lambda: REFERENCES)
    dashboard.on_fit_start(trainer, task)
    dashboard.on_train_start(trainer, task)
    for step in (400, 800):
        trainer.global_step = step
        dashboard.on_validation_end(trainer, task)
    dashboard.on_fit_end(trainer, task)
    logger.finalize("success")
    return EventAccumulator(str(folder)).Reload()


def text(events: EventAccumulator, tag: str) -> str:
    (event,) = events.Tensors(f"{tag}/text_summary")
    content: bytes = event.tensor_proto.string_val[0]
    return content.decode()


def charts(events: EventAccumulator) -> Mapping[str, Mapping[str, list[str]]]:
    (event,) = events.Tensors("custom_scalars__config__")
    proto = LayoutProto.FromString(event.tensor_proto.string_val[0])
    return {c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in proto.category}


def shown(tags: list[str], names: list[str]) -> list[str]:
    """Return the names that TensorBoard's plugin would draw in a chart: it matches from the start of a tag."""
    return [name for name in names if any(re.match(tag, name) for tag in tags)]


def test_the_text_holds_the_command_the_commit_and_the_options(events: EventAccumulator) -> None:
    told = text(events, "run/command")
    assert f"- **command**: `{COMMAND}`\n" in told
    assert re.search(r"- \*\*commit\*\*: ([0-9a-f]{40}|not in a repository)", told)
    assert "torch 2." in told
    assert text(events, "run/config") == "    task: vqa\n    model:\n      answers: 5"


def test_floors_and_ceilings_are_lines_over_the_whole_run(events: EventAccumulator) -> None:
    for name, value in REFERENCES.items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(0, value), (399, value), (799, value)]


def test_a_score_stands_beside_its_floor_and_ceiling_in_one_chart(events: EventAccumulator) -> None:
    tags = charts(events)["Scores"]["vqa_accuracy"]
    names = ["train/loss", "val/vqa_accuracy", "val/vqa_accuracy_number", "floor/vqa_accuracy", "ceiling/vqa_accuracy"]
    assert shown(tags, names) == ["val/vqa_accuracy", "floor/vqa_accuracy", "ceiling/vqa_accuracy"]


def test_every_logged_name_is_in_the_chart_where_one_looks_for_it(events: EventAccumulator) -> None:
    names = ["train/loss", "val/loss", "val/mlm_loss", "speed/samples_per_second_per_device", "speed/gradient_norm"]
    found = charts(events)
    assert list(found) == ["Losses", "Scores", "Speed", "Health"]
    assert shown(found["Losses"]["loss"], names) == ["train/loss", "val/loss"]
    assert list(found["Losses"]) == ["loss"]  # VQA has one
    assert shown(found["Speed"]["samples per second"], names) == []
    assert shown(found["Health"]["gradient norm before clipping"], names) == ["speed/gradient_norm"]
    assert shown(found["Scores"]["all validation scores"], names) == []


def test_hyperparameters_are_those_that_runs_are_compared_by(events: EventAccumulator) -> None:
    (metadata,) = [events.SummaryMetadata("_hparams_/session_start_info")]
    start = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
    given = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert given == {
        "architecture": "tiny",
        "batch": 32,
        "blind": "image",
        "lr": 0.5,
        "seed": 3,
        "steps": 6,
        "model.dropout": 0.25,
    }
    experiment = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    ).experiment
    assert "val/vqa_accuracy" in {metric.name.tag for metric in experiment.metric_infos}
    assert events.SummaryMetadata("_hparams_/session_end_info").plugin_data.plugin_name == "hparams"


def test_a_composed_architecture_is_one_option() -> None:
    settings = {"model": {"architecture": {"text": {"width": 8}}, "answers": 3}}
    assert hyperparameters(settings) == {"model.answers": 3, "architecture": "composed in the experiment"}
    assert list(flatten({"a": {"b": None, "c": [1]}})) == []


def test_pre_training_has_a_chart_for_each_score_and_none_for_a_loss() -> None:
    names = score_names(PretrainTask("tiny", {"itm": 1.0, "pbc": 1.0}), {"floor/itm_accuracy": 0.5})
    assert names == ["itm_accuracy", "pbc_iou"]
    assert list(layout(names)["Scores"]) == ["itm_accuracy", "pbc_iou", "all validation scores"]


def test_a_run_of_one_mode_of_vcr_has_no_chart_of_the_others_floors() -> None:
    task = VCRTask(architecture="tiny", mode="q2a", families=["colour"])
    assert score_names(task, {"floor/q2a": 0.25, "floor/qa2r": 0.25}) == ["q2a", "q2a_colour"]


def test_objectives_have_charts_of_their_losses_where_there_are_several() -> None:
    chart = layout([], with_objectives=True)["Losses"]["loss of each objective, validation"]
    assert shown(chart[1], ["val/loss", "val/mlm_loss"]) == ["val/mlm_loss"]


def test_the_memory_of_a_gpu_has_a_chart_where_there_is_one() -> None:
    assert "GPU memory, GiB" in layout([], on_gpu=True)["Speed"]
    assert "GPU memory, GiB" not in layout([])["Speed"]


def test_names_with_signs_are_matched_as_they_stand() -> None:
    tags = layout(["tr@1", "acc.5"])["Scores"]
    assert shown(tags["tr@1"][1], ["val/tr@1", "val/tr@10"]) == ["val/tr@1"]
    assert shown(tags["acc.5"][1], ["val/acc.5", "val/accx5"]) == ["val/acc.5"]


def test_other_loggers_are_left_alone(tmp_path: Path) -> None:
    trainer = make_trainer(global_step=0, sanity_checking=False)
    trainer.loggers = [CSVLogger(tmp_path)]
    dashboard = Dashboard(tmp_path / "config.yaml", SETTINGS, COMMAND, lambda: REFERENCES)
    task = VQATask(architecture="tiny", answers=5)
    for hook in (dashboard.on_fit_start, dashboard.on_validation_end, dashboard.on_fit_end):
        hook(trainer, task)
    assert list(tmp_path.iterdir()) == []
