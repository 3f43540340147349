"""The command line on the tiny world: fit, resume, validate, predict, and what a user gets wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.slurm.cluster import wait_until
from tests.test_run_folder import ROOT, end, hold
from vle_lightning.callbacks.recorder import FinalValidation
from vle_lightning.cli import main, raised_by_us
from vle_lightning.errors import UserError
from vle_lightning.experiment import read_settings

pytestmark = pytest.mark.usefixtures("unrendered")  # the shared run, which is made before, has real pictures

POSITIONS = "model.image.position_embedding.weight"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PRETRAIN, VCR = EXPERIMENTS / "pretrain" / "toy.yaml", EXPERIMENTS / "vcr" / "toy_q2a.yaml"
QUICK = {
    "trainer": {"max_steps": 4, "log_every_n_steps": 2, "enable_progress_bar": False},
    "validate_every": 2,
    "model": {"architecture": "tiny"},
    "data": {"batch_size": 8, "global_batch_size": 16, "workers": 0, "limit_val": 16},
}
FINISHED = {"config.yaml", "metrics.json", "run.json", "best.ckpt", "last.ckpt", "pictures"}


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    (workplace / "quick.yaml").write_text(yaml.safe_dump(QUICK))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        yield


@pytest.fixture(scope="module")
def pretrained(workplace: Path) -> Path:
    """The run folder of a pre-training of four steps."""
    assert run("fit", PRETRAIN) == 0
    return workplace / "checkpoints" / "pretrain-toy"


def run(command: str, experiment: Path, *options: str) -> int:
    return main([command, "--config", str(experiment), "--config", "quick.yaml", *options])


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def test_a_fit_leaves_its_whole_record(pretrained: Path) -> None:
    names = {path.name for path in pretrained.iterdir()}
    assert names >= FINISHED
    assert any(name.startswith("events.out.tfevents") for name in names)
    record = json.loads((pretrained / "run.json").read_text())
    assert (record["steps"], record["samples_seen"]) == (4, 64)
    assert (record["checkpoint"], record["rule"], record["seed"]) == ("best.ckpt", "min val/loss", 0)
    assert {Path(row["path"]).parent.name for row in record["data"]} == {"train", "val"}
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert {"val/itm_accuracy", "ceiling/itm_accuracy", "floor/mpc_accuracy"} <= metrics.keys()
    assert all(isinstance(value, float) for value in metrics.values())


def test_tensorboard_has_the_layout_the_text_and_the_floors_of_a_run(pretrained: Path) -> None:
    events = EventAccumulator(str(pretrained)).Reload()
    tags = events.Tags()
    assert {"floor/itm_accuracy", "ceiling/itm_accuracy", "val/itm_accuracy"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("floor/itm_accuracy")] == [0, 1, 3]  # the start, two validations
    assert tags["images"] == ["pictures/pretraining"]
    assert {"custom_scalars__config__", "run/command/text_summary", "run/config/text_summary"} <= set(tags["tensors"])
    assert "--config quick.yaml" in events.Tensors("run/command/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_checkpoints_hold_plain_types_only(pretrained: Path, name: str) -> None:
    checkpoint = torch.load(pretrained / name, weights_only=True)
    assert checkpoint["architecture"]["fusion"]["width"] == 32


@pytest.mark.slow
def test_the_saved_config_runs_again(pretrained: Path) -> None:
    settings = yaml.safe_load((pretrained / "config.yaml").read_text())
    assert settings["data"]["class_count"] == 24  # an interpolation, resolved
    assert main(["validate", "--config", str(pretrained / "config.yaml")]) == 0


def test_validate_finds_the_best_checkpoint_and_its_scores(
    pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = json.loads((pretrained / "metrics.json").read_text())["val/itm_loss"]
    assert run("validate", PRETRAIN) == 0
    assert str(recorded)[:8] in capsys.readouterr().out


@pytest.mark.slow
def test_an_earlier_run_is_put_aside(pretrained: Path) -> None:
    twice = pretrained.with_name("twice")
    shutil.copytree(pretrained, twice)
    assert run("fit", PRETRAIN, "--run_name", "twice", "--trainer.max_steps", "2") == 0
    assert json.loads((twice.with_name("twice.1") / "run.json").read_text())["steps"] == 4
    assert json.loads((twice / "run.json").read_text())["steps"] == 2


@pytest.mark.parametrize("options", [(), ("--ckpt_path", "auto")], ids=["afresh", "going on"])
def test_a_second_start_in_a_living_folder_says_who_is_at_work(
    pretrained: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in pretrained.iterdir())
    holder = hold(pretrained.absolute())
    assert run("fit", PRETRAIN, "--run_name", pretrained.name, "--model.optim.lr", "1e-9", *options) == 2
    assert f"is in use: process {holder.pid} on" in capsys.readouterr().err
    end(holder)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in pretrained.iterdir()) == before


def test_a_run_name_that_leaves_run_root_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("../victim", "", "a\nb"):
        assert run("fit", PRETRAIN, "--run_name", name) == 2
        assert "run_name is" in capsys.readouterr().err
    assert not (workplace / "victim").exists()


@pytest.mark.parametrize("start", ["auto", "a file"])
def test_a_run_that_goes_on_overwrites_no_strangers_files(
    pretrained: Path, workplace: Path, start: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = workplace / "checkpoints" / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "config.yaml").write_text("database: postgres\n")
    checkpoint = "auto" if start == "auto" else str(pretrained / "last.ckpt")
    assert run("fit", PRETRAIN, "--run_name", "victim", "--ckpt_path", checkpoint, "--trainer.max_steps", "6") == 2
    assert "victim holds config.yaml" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("config.yaml", "database: postgres\n")]


@pytest.mark.parametrize("command", ["test", "predict"])
def test_scores_and_predictions_overwrite_no_strangers_files(
    pretrained: Path, workplace: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = workplace / "checkpoints" / "theirs" / "predictions.json"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("[1, 2]")
    assert run(command, PRETRAIN, "--run_name", "theirs", "--ckpt_path", str(pretrained / "last.ckpt")) == 2
    assert "theirs holds predictions.json" in capsys.readouterr().err
    assert theirs.read_text() == "[1, 2]"


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--ckpt_path", "auto"]], ids=["afresh", "going on"])
def test_of_two_fits_in_one_folder_one_trains_and_the_other_says_who_does(workplace: Path, options: list[str]) -> None:
    name = f"contended{len(options)}"
    slow = {"class_path": "tests.slurm.slow.Slow", "init_args": {"seconds": 1.0}}
    (workplace / "slow.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [slow], "max_steps": 20}}))
    fit = [sys.executable, "-m", "vle_lightning", "fit", "--config", str(PRETRAIN), "--config", "quick.yaml"]
    fit += ["--config", "slow.yaml", "--run_name", name, "--save_every", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder = workplace / "checkpoints" / name
    with subprocess.Popen(fit, env=environment, start_new_session=True) as first:
        try:
            wait_until(folder.joinpath("last.ckpt").exists, 120, "the first checkpoint of the first run")
            second = [*fit, "--model.optim.lr", "1e-9", *options]
            refused = subprocess.run(second, env=environment, capture_output=True, text=True, check=False, timeout=120)
            still_trains = first.poll() is None
            assert first.wait(300) == 0
        finally:
            first.kill()
    assert still_trains, "the second start came too late to tell anything"
    assert refused.returncode == 2, refused.stderr
    assert f"{name} is in use: process {first.pid} on" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert json.loads((folder / "run.json").read_text())["steps"] == 20
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["optim"]["lr"] != 1e-9
    assert not folder.with_name(f"{name}.1").exists()


def test_options_in_a_checkpoint_do_not_enter_the_configuration(pretrained: Path, workplace: Path) -> None:
    content = torch.load(pretrained / "last.ckpt", weights_only=True)
    torch.save({**content, "hyper_parameters": {"seed": 99, "blind": "image"}}, workplace / "foreign.ckpt")
    assert run("validate", PRETRAIN, "--ckpt_path", "foreign.ckpt") == 0


def test_a_disk_that_is_full_wherever_it_is_noticed_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run/skips.jsonl")

    monkeypatch.setattr("vle_lightning.cli.ExperimentCLI", full)
    assert main(["fit"]) == 2
    assert "error: no space is left on the disk for run/skips.jsonl: make room" in capsys.readouterr().err


def test_a_run_that_learns_nothing_fails_and_selects_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--run_name", "sick", "--model.objectives", "{itm: 1e38, mlm: 1e38}", "--max_bad_steps", "9")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of each bad step
        assert run("fit", PRETRAIN, *options, "--trainer.max_steps", "2") == 2
    assert "error: nothing was learnt: none of the 2 steps" in capsys.readouterr().err
    assert not (workplace / "checkpoints" / "sick" / "best.ckpt").exists()
    assert not (workplace / "checkpoints" / "sick" / "metrics.json").exists()


def test_a_run_without_a_step_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", PRETRAIN, "--run_name", "idle", "--trainer.limit_train_batches", "0") == 2
    assert "error: no step was taken" in capsys.readouterr().err
    assert not Path("checkpoints/idle/metrics.json").exists()


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(callback: FinalValidation, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            raise InterruptedError

    folder = pretrained.with_name("resumed")
    with monkeypatch.context() as patch:
        patch.setattr(FinalValidation, "on_train_batch_end", interrupt)
        with pytest.raises(InterruptedError):
            run("fit", PRETRAIN, "--run_name", "resumed", "--save_every", "1")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2
    assert run("fit", PRETRAIN, "--run_name", "resumed", "--ckpt_path", "last") == 0
    straight, resumed = weights(pretrained / "last.ckpt"), weights(folder / "last.ckpt")
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, msg=name)


def test_fine_tuning_starts_from_a_checkpoint_and_predicts(
    pretrained: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", VCR, "--model.init", "checkpoints/pretrain-toy") == 0
    assert "model.init: loaded" in capsys.readouterr().out.splitlines()[0]
    predictions = workplace / "checkpoints" / "vcr-toy_q2a" / "predictions.json"
    rows = json.loads(predictions.read_text())
    assert {"id", "prediction", "target", "family"} <= rows[0].keys()
    predictions.unlink()
    assert run("predict", VCR) == 0
    again = json.loads(predictions.read_text())
    assert len({row["id"] for row in again}) == len(again) > 16  # limit_val is not for predictions


@pytest.mark.slow
def test_a_fit_trains_the_position_table_of_its_own_pictures_and_an_earlier_run_keeps_its_own(pretrained: Path) -> None:
    larger = ("--data.image_size", "64", "--run_name", "larger", "--trainer.max_steps", "2")
    assert run("fit", PRETRAIN, *larger) == 0
    folder = pretrained.with_name("larger")
    assert len(weights(folder / "last.ckpt")[POSITIONS]) == 65
    assert run("validate", PRETRAIN, "--data.image_size", "64", "--run_name", "larger") == 0
    small = ("--data.image_size", "64", "--run_name", "resized", "--ckpt_path", str(pretrained / "last.ckpt"))
    assert run("fit", PRETRAIN, *small, "--trainer.max_steps", "6") == 0  # as an earlier version saved it
    assert len(weights(pretrained.with_name("resized") / "last.ckpt")[POSITIONS]) == 37


@pytest.mark.slow
@pytest.mark.parametrize("withheld", ["image", "text"])
def test_a_side_can_be_withheld(withheld: str) -> None:
    options = ("--model.init", "null", "--model.blind", withheld, "--run_name", f"without_{withheld}")
    assert run("fit", VCR, *options, "--trainer.max_steps", "2") == 0


def test_pretraining_predicts_matches(pretrained: Path) -> None:
    rows = json.loads((pretrained / "predictions.json").read_text())
    assert {"id", "text", "target", "probability"} == rows[0].keys()
    assert {row["target"] for row in rows} == {True, False}
    assert all((row["id"] == row["text"]) == row["target"] and 0 <= row["probability"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--model.architecture", "toy"), "another model"),
        (("--ckpt_path", "empty.ckpt"), "empty.ckpt"),
        (("--ckpt_path", "garbage.ckpt"), "garbage.ckpt"),
        (("--data.global_batch_size", "32", "--ckpt_path", "last"), "data.global_batch_size was 16, is 32"),
        (("--seed_everything", "7", "--ckpt_path", "last"), "data.seed was 0, is 7"),
    ],
)
def test_a_checkpoint_that_a_run_cannot_go_on_from_is_refused(
    pretrained: Path, options: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.ckpt").write_bytes(b"")
    Path("garbage.ckpt").write_bytes(b"garbage" * 100)
    begin = ("--run_name", pretrained.name, "--trainer.max_steps", "6", "--ckpt_path", "last")
    assert run("fit", PRETRAIN, *begin, *options) == 2
    message = capsys.readouterr().err
    assert hint in message
    assert "Traceback" not in message


def test_a_fit_that_fails_leaves_the_earlier_run_where_it_is(pretrained: Path) -> None:
    options = ("--run_name", pretrained.name, "--data.sources", "{coco: -1.0}")
    assert run("fit", PRETRAIN, *options) == 2
    assert (pretrained / "best.ckpt").exists()
    assert not pretrained.with_name(f"{pretrained.name}.1").exists()


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "data.batchsize": ({"data": {"batchsize": 3}}, "data.batch_size"),
    "data.batch_size": ({"data": {"batch_size": "many"}}, "int"),
    "data.sources": ({"data": {"sources": {"coco": "often"}}}, "float"),
    "data.seed": ({"data": {"seed": 3}}, "seed_everything"),
    "data.global_batch_size": ({"data": {"batch_size": 7}}, "14 or 21"),
    "data.root": ({"data": {"root": "nowhere"}}, "make data-toy"),
    "data.workers": ({"data": {"workers": 1_000_000}}, "core(s): give at most"),
    "trainer.overfit_batches": ({"trainer": {"overfit_batches": 1}}, "repeats no batch"),
    "trainer.limit_train_batches": ({"trainer": {"limit_train_batches": 3}}, "give 2 or 4"),
    "data.patch_size": ({"data": {"patch_size": 16}}, "model.architecture"),
    "data.image_size": ({"data": {"image_size": 50, "patch_size": 10}}, "model.architecture"),
    "validate_every": ({"validate_every": -3}, "at least 1"),
    "seed_everything": ({"seed_everything": -1}, "at least 0"),
    "model.optim.lr": ({"model": {"optim": {"lr": -1.0}}}, "above 0"),
    "model.objectives": ({"model": {"objectives": {}}}, "at least one"),
    "model.classes": ({"model": {"classes": 5}, "data": {"class_count": None}}, "data.classes has 24"),
    "data.classes": ({"data": {"classes": "nowhere.json"}}, "nowhere.json"),
    "model.optim.rate": ({"model": {"optim": {"rate": 1.0}}}, "no option"),
    "model.optim": ({"model": {"optim": 3}}, "holds options"),
    "model.architecture": ({"model": {"architecture": "huge"}}, "vle-large"),
    "model.init": ({"model": {"init": "nowhere.ckpt"}}, "nowhere.ckpt"),
    "max_skipped": ({"max_skipped": "${..nothing}"}, "nothing"),
    "trainer.accumulate_grad_batches": (
        {"trainer": {"accumulate_grad_batches": 2}},
        "data.global_batch_size",
    ),
    "task": (
        {"task": "poetry"},
        "choose one of classification, dual_retrieval, nlvr, nlvr2, pretrain, pretrain_images, pretrain_texts, "
        "retrieval, segmentation, snli_ve, vcr, vqa",
    ),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_options_end_with_one_sentence(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, hint = WRONG[key]
    Path("wrong.yaml").write_text(yaml.safe_dump(options))
    assert run("fit", PRETRAIN, "--config", "wrong.yaml", "--run_name", "never") == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert key in message
    assert hint in message
    assert ".yaml" in message
    assert "usage:" not in message
    assert "Traceback" not in message
    assert not Path("checkpoints/never").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", PRETRAIN, "--trainer.accelerator", "gpu", "--run_name", "never") == 2
    assert "error: trainer: No supported gpu" in capsys.readouterr().err


ALIKE = ("0,", "0", "[]", "-3", "[0, 0]")  # to the four that are always tried


@pytest.mark.parametrize(
    "devices", ["-1", "[0]", "two", "null", *(pytest.param(value, marks=pytest.mark.slow) for value in ALIKE)]
)
def test_devices_that_a_cpu_has_not_are_refused(devices: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--trainer.accelerator", "cpu", f"--trainer.devices={devices}", "--run_name", "never")
    assert run("fit", PRETRAIN, *options) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "trainer.devices" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["fit", "--config", "nowhere.yaml"], "there is no experiment file nowhere.yaml"),
        (
            ["fit", "--config", str(PRETRAIN), "--data.flop", "true"],
            "command line: there is no option data.flop",
        ),
        (
            ["fit", "--config", str(PRETRAIN), "--ckpt_path", "last", "--run_name", "x"],
            "checkpoints/x/last.ckpt",
        ),
        (["test", "--config", str(PRETRAIN), "--run_name", "x"], "checkpoints/x/best.ckpt"),
        (["study", "nowhere.yaml", "--out", "x"], "nowhere.yaml"),
        (["train"], "invalid choice: 'train'"),
    ],
)
def test_wrong_commands_end_with_one_sentence(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("content", ["data: {a: [", "- 3", "just words"])
def test_a_file_without_options_is_refused(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text(content)
    assert main(["fit", "--config", "broken.yaml"]) == 2
    assert "broken.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("model: {objectivs: {}}", "there is no option model.objectivs; did you mean model.objectives?"),
        ("modle: {}", "there is no option modle; "),
        ("modle: {optim: {}}", "there is no option modle.optim; did you mean model.optim"),
        ("model: {optim: {lrr: {}}}", "there is no option model.optim.lrr; did you mean model.optim.lr?"),
    ],
)
def test_unknown_options_are_told_though_they_hold_nothing(content: str, told: str) -> None:
    Path("empty.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        read_settings(["--config", str(PRETRAIN), "--config", "empty.yaml"])
    assert str(caught.value).startswith(f"empty.yaml: {told}")


def test_known_options_may_hold_nothing() -> None:
    architecture = {"preset": "tiny", "text": {}, "image": {"kind": "timm_image", "options": {}}}
    content = {"trainer": {}, "data": {}, "model": {"optim": {}, "objectives": {}, "architecture": architecture}}
    Path("empty.yaml").write_text(yaml.safe_dump(content))
    settings = read_settings(["--config", str(PRETRAIN), "--config", "empty.yaml"])
    assert settings["model"]["architecture"] == architecture


def test_errors_of_libraries_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("three")
    assert not raised_by_us(caught.value)
