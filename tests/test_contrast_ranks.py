"""Real processes: contrast and its hard negatives are those of the whole step, on any ranks and any accumulation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.test_micro_batches import PRETRAIN, ROOT, fit, kill_after_first_save, opened, start

DUAL = ROOT / "experiments" / "dual_retrieval" / "vlmo_toy.yaml"
GLOBAL = 32
PATIENCE = 300  # seconds
EXPERIMENT: dict[str, Any] = {
    "trainer": {"max_steps": 20, "enable_progress_bar": False},
    "model": {
        "architecture": {
            "kind": "mome", "image_size": 48, "patch_size": 8, "vocab_size": 256, "width": 32, "layers": 2,
            "heads": 2, "intermediate": 64, "fusion_layers": 1, "text_positions": 32, "drop_path": 0.0,
        },
        "objectives": {"itc": 1.0, "itm_hard": 1.0},
        "optim": {"lr": 1.0e-3},
    },
    "data": {
        "global_batch_size": GLOBAL, "workers": 0, "limit_val": 9, "sources": {"coco": 1.0},
        "pixel_mean": [0.5, 0.5, 0.5], "pixel_std": [0.5, 0.5, 0.5],
    },
}  # fmt: skip
RETRIEVAL = {  # of a dual encoder, which has no objectives to choose
    "trainer": {"max_steps": 6, "enable_progress_bar": False},
    "validate_every": 6,
    "model": {"architecture": EXPERIMENT["model"]["architecture"], "init": None, "optim": {"lr": 1.0e-3}},
    "data": {"global_batch_size": GLOBAL, "workers": 0, "limit_val": 9, "test_split": None},
}


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    (workplace / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (workplace / "dual.yaml").write_text(yaml.safe_dump(RETRIEVAL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def options(ranks: int, accumulation: int) -> list[str]:
    found = ["--data.batch_size", str(GLOBAL // ranks // accumulation)]
    return [*found, "--trainer.devices", str(ranks), "--trainer.strategy", "ddp"] if ranks > 1 else found


def finish(arguments: list[str]) -> int:
    """Run to the end in a process of its own: several ranks start the command that they are in once more."""
    return start(arguments).wait(PATIENCE)


def losses(folder: Path) -> list[float]:
    """Return the losses of contrast that TensorBoard has, in the order of the steps."""
    events = EventAccumulator(str(next(folder.rglob("events.out*")).parent))
    events.Reload()
    return [event.value for event in events.Scalars("train/itc_loss")]


def assert_alike(folder: Path, other: Path) -> None:
    expected, actual = (opened(one / "last.ckpt")["state_dict"] for one in (folder, other))
    for name, weight in expected.items():  # a few elements' gradients are rounding alone; AdamW makes steps of them
        torch.testing.assert_close(actual[name], weight, rtol=1e-4, atol=1e-4, msg=name)
    first, last = (torch.cat([weight.flatten() for weight in found.values()]) for found in (expected, actual))
    assert (last - first).norm() <= 1e-4 * first.norm()
    scores: list[dict[str, Any]] = [json.loads((one / "metrics.json").read_text()) for one in (folder, other)]
    assert scores[1].keys() == scores[0].keys()


@pytest.fixture(scope="module")
def alone(workplace: Path) -> Path:
    """One process, one micro-batch a step."""
    assert finish(fit(PRETRAIN, "contrast", *options(1, 1))) == 0
    return workplace / "checkpoints" / "contrast"


CUTS = [(1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "accumulation"), CUTS)
def test_any_cut_of_a_step_trains_the_same_weights(ranks: int, accumulation: int, alone: Path) -> None:
    name = f"contrast_{ranks}_{accumulation}"
    assert finish(fit(PRETRAIN, name, *options(ranks, accumulation))) == 0
    assert_alike(alone, alone.with_name(name))
    assert losses(alone.with_name(name)) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_goes_on_along_the_same_curve(ranks: int, alone: Path) -> None:
    name = f"contrast_killed_{ranks}"
    saving = [*options(ranks, 2), "--save_every", "1"]
    kill_after_first_save(start(fit(PRETRAIN, name, *saving)), alone.with_name(name) / "last.ckpt")
    assert 0 < opened(alone.with_name(name) / "last.ckpt")["global_step"] < 20
    assert finish(fit(PRETRAIN, name, *saving, "--ckpt_path", "last")) == 0
    assert_alike(alone, alone.with_name(name))


def fit_dual(name: str, ranks: int, accumulation: int, matching: float) -> int:
    command = ["fit", "--config", str(DUAL), "--config", "dual.yaml", "--run_name", name]
    return finish([*command, "--model.matching", str(matching), *options(ranks, accumulation)])


@pytest.mark.slow
@pytest.mark.parametrize("matching", [0.0, 1.0])
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 2), (2, 1), (2, 2)])
def test_a_dual_encoder_trains_and_is_judged_alike_on_any_ranks(
    ranks: int, accumulation: int, matching: float, workplace: Path
) -> None:
    names = (f"dual_{cut}_{matching}" for cut in ("1_1", f"{ranks}_{accumulation}"))
    alone, folder = (workplace / "checkpoints" / name for name in names)
    if not alone.exists():
        assert fit_dual(alone.name, 1, 1, matching) == 0
    assert fit_dual(folder.name, ranks, accumulation, matching) == 0
    assert_alike(alone, folder)
    scores = [json.loads((one / "metrics.json").read_text()) for one in (alone, folder)]
    recalls = [{name: score for name, score in found.items() if "r@" in name} for found in scores]
    assert recalls[0]
    assert recalls[0] == recalls[1]
