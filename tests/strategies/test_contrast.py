"""Real processes: contrast and hard negatives train alike where ranks share moments, gradients or weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.factories import with_single_numbers
from tests.strategies.runs import ROOT, run
from tests.test_contrast_ranks import DUAL, EXPERIMENT, GLOBAL, RETRIEVAL, assert_alike, losses
from tests.test_micro_batches import opened

pytestmark = pytest.mark.slow
PRETRAIN = ROOT / "experiments" / "pretrain" / "toy.yaml"
STRATEGIES = ("fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")
HALF = 10  # of 20 steps
START = -math.log(0.07)  # of a temperature
RANKS = ACCUMULATION = 2


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    saving = {"validate_every": HALF, "keep_last": 5}
    (workplace / "contrast.yaml").write_text(yaml.safe_dump({**EXPERIMENT, **saving}))
    (workplace / "dual.yaml").write_text(yaml.safe_dump(RETRIEVAL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        yield


def fit(experiment: Path, small: str, name: str, strategy: str, *options: str) -> Path:
    """Train to the end, by one process in one micro-batch a step or by ranks in several; return the run folder."""
    ranks, accumulation = (1, 1) if strategy == "auto" else (RANKS, ACCUMULATION)
    run(
        *("fit", "--config", str(experiment), "--config", small, "--run_name", name),
        *("--trainer.strategy", strategy, "--trainer.devices", str(ranks), "--trainer.accelerator", "cpu"),
        *("--data.batch_size", str(GLOBAL // ranks // accumulation), *options),
    )
    return Path("checkpoints") / name


def pretrain(name: str, strategy: str, *options: str) -> Path:
    return fit(PRETRAIN, "contrast.yaml", name, strategy, *options)


@pytest.fixture(scope="module")
def whole() -> Path:
    """One process, one micro-batch a step."""
    return pretrain("contrast_whole", "auto")


@pytest.fixture(scope="module", params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def spread(strategy: str) -> Path:
    """Two ranks under a strategy, two micro-batches each a step."""
    return pretrain(f"contrast_{strategy}", strategy)


def test_two_ranks_train_the_weights_of_one_process(spread: Path, whole: Path) -> None:
    assert_alike(whole, spread)
    assert losses(spread) == pytest.approx(losses(whole), rel=1e-4)


def test_the_temperature_learns_alike(spread: Path, whole: Path) -> None:
    expected, actual = (opened(folder / "last.ckpt")["state_dict"] for folder in (whole, spread))
    names = [name for name in expected if name.endswith("log_scale")]
    assert names
    for name in names:
        moved = expected[name] - START
        assert moved.abs().item() > 1e-3
        torch.testing.assert_close(actual[name] - START, moved, rtol=1e-2, atol=0)


def test_gradients_are_of_the_size_of_one_process(spread: Path, whole: Path) -> None:
    expected, actual = (moments(opened(folder / "last.ckpt")) for folder in (whole, spread))
    assert expected.keys() == actual.keys()
    for number, moment in expected.items():  # AdamW's steps would not tell
        assert (actual[number] - moment).norm() <= 1e-2 * moment.norm(), number


def moments(checkpoint: dict[str, Any]) -> dict[int, Tensor]:
    """Return the first moments by the places of their parameters in the groups, which strategies number differently."""
    (states,) = checkpoint["optimizer_states"]
    numbers = [number for group in states["param_groups"] for number in group["params"]]
    return {place: states["state"][number]["exp_avg"] for place, number in enumerate(numbers)}


def test_a_run_of_earlier_versions_goes_on(strategy: str, whole: Path) -> None:
    earlier = Path("checkpoints") / "earlier.ckpt"
    torch.save(with_single_numbers(opened(whole / f"step_{HALF:06}.ckpt")), earlier)
    assert_alike(whole, pretrain(f"contrast_{strategy}_earlier", strategy, "--ckpt_path", str(earlier)))


def test_a_run_of_earlier_versions_goes_on_alone(whole: Path) -> None:
    earlier = Path("checkpoints") / "earlier.ckpt"
    torch.save(with_single_numbers(opened(whole / f"step_{HALF:06}.ckpt")), earlier)
    folder = pretrain("contrast_alone_earlier", "auto", "--ckpt_path", str(earlier))
    expected, actual = (opened(one / "last.ckpt")["state_dict"] for one in (whole, folder))
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())


def test_a_dual_encoder_trains_alike_under_zero() -> None:  # of those that it may be trained under (test_refusals.py)
    alone, folder = (
        fit(DUAL, "dual.yaml", f"dual_{strategy}", strategy, "--trainer.max_steps", "6")
        for strategy in ("auto", "deepspeed_2")
    )
    assert_alike(alone, folder)
