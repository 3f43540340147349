"""The planner's command, on experiments as they ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.sampler import accumulation
from vle_lightning.errors import UserError
from vle_lightning.experiment import read_settings
from vle_lightning.plan.command import run_plan
from vle_lightning.plan.kinds import PHOTO
from vle_lightning.plan.stream import measured_bytes

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TOY = ("--config", str(EXPERIMENTS / "pretrain" / "toy.yaml"))
ON_TWO = ("--gpus", "2", "--gpu", "a100-40")


def plan(*arguments: str) -> int:
    return run_plan(arguments, read_settings, accumulation)


def planned(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "plans" / "plan.json"
    assert plan(*arguments, "--json", str(file)) == 0
    content: dict[str, Any] = json.loads(file.read_text())
    return content


@pytest.mark.slow
def test_the_toy_run_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = planned(tmp_path, *TOY, *ON_TWO, "--data.batch_size", "16", "--utilisation", "0.5")
    text = capsys.readouterr().out
    assert all(len(line) <= 120 for line in text.splitlines())
    assert "2 x a100-40 on 1 node(s)" in text
    assert content["accumulation"] == 2  # 64 / (16 x 2)
    flops = sum(content["flops_per_sample"].values())
    assert content["samples_per_second"] == pytest.approx(2 * 312e12 * 0.5 / flops)
    assert content["hours"] == pytest.approx(1200 * 64 / content["samples_per_second"] / 3600)
    assert content["tokens_per_second"] == pytest.approx(32 * content["samples_per_second"])
    batches = {entry["batch_size"]: entry["accumulation"] for entry in content["memory"]}
    assert batches == {1: 32, 2: 16, 4: 8, 8: 4, 16: 2, 32: 1}
    (asked,) = [entry for entry in content["memory"] if entry["asked_for"]]
    assert (asked["strategy"], asked["batch_size"], asked["activation_checkpointing"]) == ("ddp", 16, [])
    assert f"{asked['bytes'] / 1e9:.1f}*" in text


@pytest.mark.slow
def test_what_does_not_divide_is_told_with_the_nearest_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = planned(tmp_path, *TOY, "--gpus", "3", "--gpu", "h100")
    assert content["accumulation"] is None
    text = capsys.readouterr().out
    assert "does not divide: data.global_batch_size 64 is not a multiple of data.batch_size 64 x 3 device(s)" in text
    assert "nearest possible: data.global_batch_size 192" in text


@pytest.mark.slow
def test_large_does_not_fit_a_small_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = str(EXPERIMENTS / "pretrain" / "vle_large.yaml")
    content = planned(tmp_path, "--config", large, "--gpus", "64", "--gpu", "rtx4090", "--trainer.strategy", "fsdp")
    own = [e for e in content["memory"] if e["batch_size"] == 16 and not e["offload"]]
    fits = {(e["strategy"], bool(e["activation_checkpointing"])): e["fits"] for e in own}
    assert not fits["ddp", False]
    assert fits["fsdp", True]
    assert content["strategy"] == "fsdp"
    assert content["steps"] == 25_000
    assert "!" in capsys.readouterr().out
    lowest = min(e["bytes"] for e in content["memory"] if e["strategy"] == "ddp")
    assert lowest > 16 * 948e6  # weights, gradients and moments alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "steps", "sample"),
    [
        ("pretrain_images/vlmo_base", 1_040_000, "224 px, 38% of the patches hidden"),
        ("pretrain_texts/vlmo_base", 200_000, "196 tokens, 15% of the tokens masked"),
        ("classification/vlmo_base_imagenet1k", 0, "224 px"),  # in epochs, and the data is not here
        ("segmentation/vlmo_base_ade20k", 160_000, "512 px"),  # the model's own size is 224
    ],
)
def test_images_and_texts_alone_are_planned(
    file: str, steps: int, sample: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = planned(tmp_path, "--config", str(EXPERIMENTS / f"{file}.yaml"), "--gpus", "8", "--gpu", "h100")
    text = capsys.readouterr().out
    assert f"sample: {sample}\n" in text
    assert content["steps"] == steps
    assert all(len(line) <= 120 for line in text.splitlines())
    assert ("tokens " in text) == ("texts " in text) == ("texts" in file)
    fusion, heads = content["parameters"]["fusion"], content["parameters"]["heads"]
    assert 0 < fusion["trained"] < fusion["all"]  # the experts of other modalities rest
    assert heads["trained"] == heads["all"] > 0
    assert sum(entry["asked_for"] for entry in content["memory"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*TOY, "--gpus", "2", "--gpu", "h1000"), "choose one of v100-32"),
        ((*TOY, "--gpus", "0", "--gpu", "h100"), "--gpus is 0; it must be at least 1"),
        ((*TOY, "--gpus", "two", "--gpu", "h100"), "invalid int value"),
        ((*TOY, "--gpu", "h100"), "required: --gpus"),
        ((*TOY, *ON_TWO, "--utilisation", "35"), "--utilisation is 35.0; give a share"),
        (ON_TWO, "name an experiment"),
        ((*TOY, *ON_TWO, "--data.bach_size", "3"), "no option data.bach_size; did you mean data.batch_size?"),
        ((*TOY, *ON_TWO, "--trainer.strategy", "ddp_spawn"), "planner knows ddp, fsdp, .*, not ddp_spawn"),
        ((*TOY, *ON_TWO, "--trainer.precision", "16-mixed"), "bf16-mixed, bf16-true and 32-true"),
        ((*TOY, *ON_TWO, "--data.image_size", "50"), "data.image_size 50 is not a multiple"),
        (
            ("--config", str(EXPERIMENTS / "vqa" / "toy.yaml"), *ON_TWO),
            "the task is vqa; what can be planned are pretrain,",
        ),
    ],
)
def test_what_cannot_be_planned_is_told(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        plan(*arguments)


def test_bytes_are_measured_where_manifests_are(tmp_path: Path) -> None:
    for source, images, samples, size in (("coco", 10, 50, 1000), ("vg", 10, 100, 400)):
        folder = tmp_path / source / "train"
        folder.mkdir(parents=True)
        shards = [{"bytes": size * images // 2}] * 2
        (folder / "manifest.json").write_text(json.dumps({"shards": shards, "images": images, "samples": samples}))
    found = measured_bytes(str(tmp_path), {"coco": 2.0, "vg": 1.0}, "train", PHOTO)
    assert found.mean == pytest.approx((100 * 1000 + 100 * 400) / 200)
    assert ("measured" in found.origin, found.epoch) == (True, 2 * 50 + 100)
    by_images = measured_bytes(str(tmp_path), {"coco": 2.0, "vg": 1.0}, "train", PHOTO, "images")
    assert by_images.mean == pytest.approx((20 * 1000 + 10 * 400) / 30)
    assert by_images.epoch == 20 + 10
    assumed = measured_bytes(str(tmp_path), {"coco": 1.0, "sbu": 1.0}, "train", PHOTO)
    assert assumed.mean == PHOTO
    assert "sbu" in assumed.origin
