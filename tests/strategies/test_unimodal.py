"""Real processes: pre-training on one modality trains the same under every strategy, and leaves alone what it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.strategies.runs import ROOT, run

pytestmark = pytest.mark.slow
STRATEGIES = ("ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")
PIXELS = {"pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3}
SMALL: dict[str, Any] = {
    "trainer": {"max_steps": 6, "accelerator": "cpu", "enable_progress_bar": False},
    "validate_every": 3,
    "keep_last": 5,
    "model": {"architecture": "vlmo-tiny", "optim": {"lr": 1e-2, "warmup": 0.0}},
    "data": {"batch_size": 4, "global_batch_size": 8, "workers": 1, "limit_val": 5},
}


@pytest.fixture(scope="module")
def place(workplace: Path) -> Any:  # noqa: ANN401
    """Work where data/toy is the tiny world; the first stage is trained there by one process."""
    (workplace / "unimodal.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        fit("images", "images", "auto", 1)
        yield workplace


def fit(stage: str, name: str, strategy: str, devices: int, *options: str) -> Path:
    experiment = str(ROOT / f"experiments/pretrain_{stage}/vlmo_toy.yaml")
    run(
        *("fit", "--config", experiment, "--config", "unimodal.yaml", "--run_name", name),
        *("--trainer.strategy", strategy, "--trainer.devices", str(devices), *options),
    )
    return Path("checkpoints") / name


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return found


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = content(folder)["state_dict"]
    return found


FIRST = ("--model.init", "checkpoints/images/last.ckpt")


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """The second stage of one process."""
    return fit("texts", "texts", "auto", 1, *FIRST)


def is_trained(name: str) -> bool:
    """Restate what VLMo's second stage trains."""
    parts = ("model.text.", "model.token_types", "experts.text", "model.norm.", "model.position_bias", "objectives.")
    return any(part in name for part in parts)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_train_the_texts_part_as_one_does_and_nothing_else(strategy: str, alone: Path) -> None:
    folder = fit("texts", f"texts_{strategy}", strategy, 2, *FIRST)
    before, one, two = weights(Path("checkpoints/images")), weights(alone), weights(folder)
    assert one.keys() == two.keys()
    for name, weight in two.items():
        if is_trained(name):
            torch.testing.assert_close(weight, one[name], rtol=1e-3, atol=2e-4, msg=name)
            assert name not in before or name.endswith("segments.weight") or not torch.equal(weight, before[name]), name
        else:
            assert torch.equal(weight, before[name]), name
    held = content(folder)["optimizer_states"][0]
    trained = sum(map(is_trained, one))
    assert sum(len(group["params"]) for group in held["param_groups"]) == trained
    assert len(held["state"]) <= trained


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_train_on_images_as_one_does(strategy: str, place: Path) -> None:
    folder = fit("images", f"images_{strategy}", strategy, 2)
    one, two = weights(Path("checkpoints/images")), weights(folder)
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_with_frozen_parts_goes_on(strategy: str, alone: Path) -> None:
    half = str(alone / "step_000003.ckpt")
    folder = fit("texts", f"texts_{strategy}_again", strategy, 2, *FIRST, "--ckpt_path", half)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, weights(alone)[name], rtol=1e-3, atol=2e-4, msg=name)
