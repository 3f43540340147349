"""Real processes: every strategy trains as one process does, and a run goes on under any other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.strategies.losses import read_losses, without_boxes

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STRATEGIES = ("ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3")
STEPS, HALF, MICRO_BATCHES = 20, 10, 4
SMALL = {
    "trainer": {"max_steps": STEPS, "gradient_clip_val": 0.1, "enable_progress_bar": False, "accelerator": "cpu"},
    "model": {"architecture": "tiny"},
    # flickr30k has no boxes; 5 samples of validation: rank zero gets a whole micro-batch, the other one sample
    "data": {
        "batch_size": 2,
        "global_batch_size": 2 * MICRO_BATCHES,
        "workers": 1,
        "limit_val": 5,
        "sources": {"coco": 1.0, "flickr30k": 1.0},
    },
    "validate_every": HALF,
    "keep_last": 5,
}
PATIENCE = 200  # seconds


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    (workplace / "strategies.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        yield


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vle_lightning", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def fit(name: str, strategy: str, devices: int, *options: str) -> Path:
    """Train to the end; return the run folder."""
    folder = Path("checkpoints") / name
    record = "--trainer.callbacks+=tests.strategies.losses.LossRecord"
    run(
        *("fit", "--config", str(ROOT / "experiments/pretrain/toy.yaml"), "--config", "strategies.yaml"),
        *("--run_name", name, "--trainer.strategy", strategy, "--trainer.devices", str(devices)),
        *(record, f"--trainer.callbacks.folder={folder}/losses", *options),
    )
    return folder


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Path:
    """The run folder of one process."""
    return fit("alone", "auto", 1)


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
    continues(spread, f"{spread.name}_ddp_{devices}", "ddp" if devices == 2 else "auto", devices, alone)


def test_a_run_of_one_process_goes_on_under_every_strategy(spread: Path, alone: Path) -> None:
    continues(alone, f"alone_{spread.name}", spread.name, 2, alone)


def continues(start: Path, name: str, strategy: str, devices: int, alone: Path) -> None:
    """Go on from the middle of a run, and compare the losses of the second half with those of one process."""
    half = start / f"step_{HALF:06}.ckpt"
    folder = fit(name, strategy, devices, "--ckpt_path", str(half))
    whole, actual = read_losses(alone / "losses"), read_losses(folder / "losses")
    expected = {place: loss for place, loss in whole.items() if place[0] >= HALF}
    assert len(expected) == (STEPS - HALF) * MICRO_BATCHES
    assert actual == pytest.approx(expected, rel=1e-4)
