"""Steps that are not finite: nothing is learnt from them, on no rank, and several in a row end the run."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer import call
from torch import nn
from torch.optim import Optimizer

from tests.callbacks.sick import CONFIG, Run, SickTask, make_batch, outcomes, start
from vle_lightning.callbacks.health import BadStep, Health, Suspect, is_scaled, total_norm
from vle_lightning.errors import UserError

NAN = {"1.2.1": "nan"}  # the second sample of micro-batch 2 of step 1


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nothing was learnt")
        yield


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "bad_steps.jsonl").read_text().splitlines()]


def weights_by_hand(steps: int, bad: set[int]) -> list[list[torch.Tensor]]:
    """Train with torch alone on the mean of four micro-batches, leaving out whole steps."""
    task = SickTask({})
    head = task.head
    groups = [
        {"params": [head.weight], "weight_decay": CONFIG.weight_decay},
        {"params": [head.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=CONFIG.lr, betas=CONFIG.betas)
    states = []
    for step in range(steps):
        if step not in bad:
            optimizer.zero_grad()
            values = [make_batch(step, number).values for number in range(4)]
            (head(torch.cat(values)) - 1).square().mean().backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
        states.append([p.detach().clone() for p in head.parameters()])
    return states


@pytest.mark.parametrize("fault", ["nan", "steep"])
@pytest.mark.parametrize(("micro_batch", "behind"), [(0, False), (2, False), (3, False), (2, True)])
def test_a_bad_step_changes_neither_weights_nor_moments_and_the_next_one_trains(
    fault: str, micro_batch: int, behind: bool, tmp_path: Path
) -> None:
    run = Run(tmp_path, {f"1.{micro_batch}.0": fault})
    run.health.behind = behind
    run.fit()
    states = run.diary.states
    assert states[1] == states[0]
    assert [state["adam"][0]["step"] for state in states] == [1, 1, 2, 3, 4]
    for state, expected in zip(states, weights_by_hand(5, {1}), strict=True):
        torch.testing.assert_close([torch.tensor(weight) for weight in state["weights"]], expected)
    assert run.health.bad_steps == 1


def test_a_bad_loss_is_listed_with_its_samples_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, NAN)
    with pytest.warns(
        UserWarning, match=r"nothing was learnt from step 1, .*micro-batch 2, loss nan: 1\.2\.0, 1\.2\.1\)"
    ):
        run.fit()
    (row,) = rows(tmp_path)
    assert row["micro_batches"] == [{"rank": 0, "number": 2, "loss": "nan", "sample_ids": ["1.2.0", "1.2.1"]}]
    assert (row["step"], row["reason"], row["in_a_row"], row["bad_steps"]) == (1, "loss", 1, 1)


def test_of_a_bad_gradient_all_samples_are_listed(tmp_path: Path) -> None:
    Run(tmp_path, {"3.0.0": "steep"}).fit()
    (row,) = rows(tmp_path)
    assert (row["step"], row["reason"], row["gradient_norm"]) == (3, "gradient norm", "inf")
    assert [part["number"] for part in row["micro_batches"]] == [0, 1, 2, 3]
    assert all(math.isfinite(part["loss"]) for part in row["micro_batches"])


def test_three_in_a_row_end_the_run_with_a_report(tmp_path: Path) -> None:
    run = Run(tmp_path, {f"{step}.{step}.0": "nan" for step in (1, 2, 3)})
    with pytest.raises(
        UserError, match=r"3 bad steps in a row.*step 1, .*step 2, .*step 3, .*3\.3\.0.*optim\.lr"
    ) as told:
        run.fit()
    assert str(tmp_path / "bad_steps.jsonl") in str(told.value)
    assert [row["in_a_row"] for row in rows(tmp_path)] == [1, 2, 3]


def test_read_a_step_later_the_same_is_told_and_the_run_ends_a_step_later(tmp_path: Path) -> None:
    told = []
    for behind in (False, True):
        run = Run(tmp_path / str(behind), {f"{step}.{step}.0": "nan" for step in (1, 2, 3)}, steps=8)
        run.health.behind = behind
        with pytest.raises(UserError, match="3 bad steps in a row"):
            run.fit()
        told.append((rows(tmp_path / str(behind)), len(run.diary.states)))
    assert told[0][0] == told[1][0]
    assert told[1][1] == told[0][1] + 1


def test_steps_that_are_not_judged_yet_are_in_what_is_saved(tmp_path: Path) -> None:
    saved: list[dict[str, int]] = []

    class Saver(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            saved.append(run.health.state_dict())

    run = Run(tmp_path, {"2.0.0": "nan", "3.0.0": "nan"}, more=[Saver()])
    run.health.behind = True
    run.fit()
    assert [one["bad_steps"] for one in saved[3::4]] == [0, 0, 1, 2, 2]
    assert [one["in_a_row"] for one in saved[3::4]] == [0, 0, 1, 2, 0]
    assert run.health.state_dict() == {"bad_steps": 2, "in_a_row": 0}


def test_bad_steps_that_are_not_in_a_row_do_not_end_it(tmp_path: Path) -> None:
    run = Run(tmp_path, {f"{step}.0.0": "nan" for step in (0, 1, 3, 4)})
    run.fit()
    assert run.health.bad_steps == 4
    assert [row["in_a_row"] for row in rows(tmp_path)] == [1, 2, 1, 2]


class Losses(Callback):
    """Remembers what the progress bar and progress.json would show."""

    def __init__(self) -> None:
        self.shown: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.shown.append(float(trainer.callback_metrics["train/loss"]))


def test_the_logged_loss_stays_finite(tmp_path: Path) -> None:
    losses = Losses()
    run = Run(tmp_path, NAN, more=[losses])
    run.fit()
    assert all(map(math.isfinite, losses.shown))
    assert losses.shown[4 + 2] == losses.shown[4 + 1]  # nothing new
    assert losses.shown[4 + 3] != losses.shown[4 + 2]


def test_counting_goes_on_after_a_resume(tmp_path: Path) -> None:
    before = Run(tmp_path, {"3.0.0": "nan", "4.0.0": "nan"})
    before.fit()
    saved = before.health.state_dict()
    after = Run(tmp_path, {"0.0.0": "nan"})
    after.health.load_state_dict(saved)
    with pytest.raises(UserError, match="3 bad steps in a row"):
        after.fit()
    assert after.health.bad_steps == 3
    after.health.load_state_dict({"bad_steps": 0, "in_a_row": 0})  # as by a validation of an older checkpoint
    assert after.health.bad_steps == 3


def test_the_norm_is_that_before_clipping(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, steps=1, gradient_clip_algorithm="norm")
    run.fit()
    head = SickTask({}).head
    values = torch.cat([make_batch(0, number).values for number in range(4)])
    (head(values) - 1).square().mean().backward()
    squares = sum(float(p.grad.square().sum()) for p in head.parameters() if p.grad is not None)
    assert run.health.gradient_norm == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_the_norm_is_over_all_parameters_that_have_a_gradient() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    for parameter, gradient in zip(parameters[:2], (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    assert total_norm(parameters) == 5
    assert total_norm(parameters[2:]) == 0


def test_float16s_scaler_minds_infinite_gradients_itself() -> None:
    plugins = [MixedPrecision("16-mixed", "cpu"), MixedPrecision("bf16-mixed", "cpu")]
    trainers: list[Any] = [SimpleNamespace(precision_plugin=plugin) for plugin in plugins]
    assert [is_scaled(trainer) for trainer in trainers] == [True, False]


class Engine(SingleDeviceStrategy):
    """Takes each micro-batch and the step by itself, as DeepSpeed does."""

    def __init__(self, norms: dict[int, float] | None = None) -> None:
        super().__init__(device="cpu")
        self.norms, self.taken, self.skipped = norms or {}, 0, [False]

    @property
    def handles_gradient_accumulation(self) -> bool:
        return True

    def skip_step(self) -> None:
        self.skipped[-1] = True

    def gradient_norm(self) -> float | None:
        return self.norms.get(self.taken // 4 - 1, 1.0)

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *_: Any, **__: Any) -> Any:  # noqa: ANN401
        loss = closure()
        assert self.lightning_module is not None
        call._call_callback_hooks(self.lightning_module.trainer, "on_before_optimizer_step", optimizer)
        self.taken += 1
        if self.taken % 4 == 0:
            if not self.skipped[-1]:
                optimizer.step()
            self.skipped.append(False)
        return loss


def test_a_strategy_that_steps_by_itself_is_told_to_skip(tmp_path: Path) -> None:
    strategy = Engine({2: 7.0})
    run = Run(tmp_path, NAN, steps=3, strategy=strategy)
    run.fit()
    assert strategy.skipped[:3] == [False, True, False]
    assert run.diary.states[1] == run.diary.states[0] != run.diary.states[2]
    assert (run.health.bad_steps, run.health.gradient_norm) == (1, 7.0)
    assert rows(tmp_path)[0]["micro_batches"][0]["sample_ids"] == ["1.2.0", "1.2.1"]


def test_several_skipped_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, {f"{step}.3.0": "nan" for step in (0, 1, 2)}, strategy=Engine())
    with pytest.raises(UserError, match="3 bad steps in a row"):
        run.fit()


def test_its_gradient_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, {}, strategy=Engine({1: math.inf}))
    with pytest.raises(UserError, match=r"step 1, whose gradient norm is not finite .*go on from the last checkpoint"):
        run.fit()
    assert rows(tmp_path)[0]["gradient_norm"] == "inf"


def test_many_samples_are_named_in_the_file_and_some_in_the_message(tmp_path: Path) -> None:
    suspect = Suspect(1, 3, math.inf, tuple(f"s{n}" for n in range(10)))
    assert str(suspect) == "rank 1, micro-batch 3, loss inf: s0, s1, s2, s3, s4, s5, s6, s7 and 2 more"
    assert str(BadStep(5, "loss", math.nan, (suspect,) * 11)).endswith("; and 3 more micro-batches)")
    assert Health(tmp_path).limit == 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_2"])
def test_two_ranks_skip_the_step_that_is_bad_on_one(strategy: str, tmp_path: Path) -> None:
    ranks = outcomes(tmp_path, start(tmp_path, strategy=strategy, faults={"1.3.0": "nan", "3.0.0": "nan"}))
    assert ranks[0] == ranks[1]
    assert (ranks[0]["error"], ranks[0]["bad_steps"]) == ("", 2)
    for state, expected in zip(ranks[0]["states"], weights_by_hand(5, {1, 3}), strict=True):
        torch.testing.assert_close([torch.tensor(weight) for weight in state["weights"]], expected)
    listed = [(part["rank"], part["sample_ids"]) for row in rows(tmp_path) for part in row["micro_batches"]]
    assert listed == [(1, ["1.3.0", "1.3.1"]), (0, ["3.0.0", "3.0.1"])]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_skip_an_infinite_gradient_of_one(strategy: str, tmp_path: Path) -> None:
    ranks = outcomes(tmp_path, start(tmp_path, strategy=strategy, faults={"3.1.0": "steep"}))
    assert ranks[0] == ranks[1]
    for state, expected in zip(ranks[0]["states"], weights_by_hand(5, {3}), strict=True):
        torch.testing.assert_close([torch.tensor(weight) for weight in state["weights"]], expected)
    (row,) = rows(tmp_path)
    assert row["reason"] == "gradient norm"
    assert [(part["rank"], part["number"]) for part in row["micro_batches"]] == [(0, 0), (0, 2), (1, 1), (1, 3)]


@pytest.mark.slow
def test_under_deepspeed_an_infinite_gradient_ends_both_ranks(tmp_path: Path) -> None:
    first, second = outcomes(tmp_path, start(tmp_path, strategy="deepspeed_2", faults={"3.1.0": "steep"}))
    assert first["error"] == second["error"]
    assert "step 3, whose gradient norm is not finite" in first["error"]
    assert "go on from the last checkpoint" in first["error"]


@pytest.mark.slow
def test_three_in_a_row_end_both_ranks_with_the_same_report(tmp_path: Path) -> None:
    faults = {"1.1.0": "nan", "2.0.0": "nan", "3.3.1": "steep"}
    first, second = outcomes(tmp_path, start(tmp_path, faults=faults))
    assert first["error"] == second["error"]
    for told in ("3 bad steps in a row", "1.1.0", "2.0.0", "3.3.1", "rank 1, micro-batch 3"):
        assert told in first["error"]


@pytest.mark.slow
def test_ranks_end_together_when_one_loses_too_many_samples(tmp_path: Path) -> None:
    # of 2 steps of 2 micro-batches: 2 rows each on rank 0, on rank 1 one more that is lost
    first, second = outcomes(tmp_path, start(tmp_path, faults={}, losing=1, log_every_n_steps=2))
    assert first["error"] == second["error"]
    assert "4 of 20 samples of train could not be used (unreadable image: 4)" in first["error"]
