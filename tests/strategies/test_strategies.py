"""Real processes: every strategy trains as one process does, and a run goes on under any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.strategies.losses import read_losses, without_boxes
from tests.strategies.runs import MICRO_BATCHES, STEPS, fit, run, second_halves

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_workplace")]
STRATEGIES = ("ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")


@pytest.fixture(scope="module", params=STRATEGIES)
def spread(request: pytest.FixtureRequest, alone: Path) -> Path:
    """The run folder of two ranks under a strategy."""
    name: str = request.param
    return fit(name, name, 2)


def test_two_ranks_have_the_losses_of_one_process(spread: Path, alone: Path) -> None:
    expected, actual = (read_losses(folder / "losses") for folder in (alone, spread))
    assert len(expected) == STEPS * MICRO_BATCHES
    assert actual == pytest.approx(expected, rel=1e-4)
    assert without_boxes(spread / "losses") > 0


def test_validation_counts_each_sample_once(spread: Path, alone: Path) -> None:
    # 5 samples in micro-batches of 2: rank one has a filler, which counts for nothing
    expected, actual = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, spread))
    assert actual == pytest.approx(expected, rel=1e-3)
    assert actual["val/itm_accuracy"] * 5 == pytest.approx(round(actual["val/itm_accuracy"] * 5))


def test_a_checkpoint_exports_to_the_weights_of_one_process(spread: Path, alone: Path) -> None:
    for folder in (alone, spread):
        if not (folder / "export").exists():
            run("export", str(folder / "last.ckpt"), "--to", str(folder / "export"))
    expected, actual = (load_file(folder / "export" / "model.safetensors") for folder in (alone, spread))
    assert expected.keys() == actual.keys()
    for name, weight in expected.items():
        assert actual[name].dtype == torch.float32
        torch.testing.assert_close(actual[name], weight, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_goes_on_at_half_way_under_ddp(devices: int, spread: Path, alone: Path) -> None:
    strategy = "ddp" if devices == 2 else "auto"
    actual, expected = second_halves(spread, f"{spread.name}_ddp_{devices}", strategy, devices, alone)
    assert actual == pytest.approx(expected, rel=1e-4)


def test_a_run_of_one_process_goes_on_under_every_strategy(spread: Path, alone: Path) -> None:
    actual, expected = second_halves(alone, f"alone_{spread.name}", spread.name, 2, alone)
    assert actual == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_3"])
def test_recomputed_activations_keep_the_losses_where_ranks_share_weights(strategy: str, alone: Path) -> None:
    folder = fit(f"{strategy}_recomputed", strategy, 2, "--activation_checkpointing", "[text,image,fusion]")
    assert read_losses(folder / "losses") == pytest.approx(read_losses(alone / "losses"), rel=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_3"])
def test_objectives_that_leave_weights_alone_train_and_resume(strategy: str) -> None:
    few = ("--model.objectives", "{mlm: 1.0}", "--trainer.max_steps", "4", "--validate_every", "2")
    folder = fit(f"{strategy}_mlm", strategy, 2, *few)
    assert (folder / "best.ckpt").exists()
    fit(f"{strategy}_mlm_again", strategy, 2, *few, "--ckpt_path", str(folder / "step_000002.ckpt"))
