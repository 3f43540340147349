"""What watches a run, by itself."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from vle_lightning.batch import Batch, Skip
from vle_lightning.callbacks.checkpoints import Checkpoints
from vle_lightning.callbacks.recorder import FinalValidation, PredictionWriter, RunClock, git_state, versions
from vle_lightning.callbacks.skips import SkipReport, lost_samples
from vle_lightning.checkpointing.store import Best, CheckpointStore
from vle_lightning.errors import UserError
from vle_lightning.tasks.base import VisionLanguageTask


class Log:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.values |= values


def make_trainer(**more: object) -> Any:  # noqa: ANN401 (stands for a Trainer)
    log = Log()
    options = {"loggers": [log], "log": log, "global_step": 0, "max_steps": -1, "should_stop": False}
    options |= {"log_every_n_steps": 1, "accumulate_grad_batches": 1}
    return SimpleNamespace(**{**options, **more})


def make_batch(rows: int, *skipped: Skip) -> Batch:
    return Batch(
        sample_ids=tuple(map(str, range(rows))),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        skipped=skipped,
    )


TASK: Any = SimpleNamespace(log=lambda *_, **__: None)
BROKEN = Skip("unreadable image", "shards/000000.tar key 7")


def test_skips_are_counted_and_listed_once(tmp_path: Path) -> None:
    report, trainer = SkipReport(tmp_path, limit=0.5), make_trainer()
    for _ in range(2):
        report.on_train_batch_end(trainer, TASK, None, make_batch(9, BROKEN), 0)
        report.on_validation_start(trainer, TASK)
        report.on_validation_batch_end(trainer, TASK, None, make_batch(9, BROKEN), 0)
        report.on_validation_end(trainer, TASK)
    assert report.counts == {(BROKEN.kind, True, "train"): 2, (BROKEN.kind, True, "val"): 1}
    assert trainer.log.values == {"skipped/train/unreadable_image": 2.0, "skipped/val/unreadable_image": 1.0}
    listed = [json.loads(line) for line in (tmp_path / "skips.jsonl").read_text().splitlines()]
    assert listed == [{"split": "train", "step": 0, **BROKEN._asdict()}]


def test_too_many_skips_end_the_run(tmp_path: Path) -> None:
    report = SkipReport(tmp_path, limit=0.01)
    for number in range(10):
        report.on_train_batch_end(make_trainer(), TASK, None, make_batch(99, BROKEN), number)
    report.on_train_batch_end(make_trainer(log_every_n_steps=2, global_step=1), TASK, None, make_batch(0, BROKEN), 0)
    with pytest.raises(UserError, match=r"22 of 1111 samples of train .*unreadable image: 22.*skips\.jsonl"):
        report.on_train_batch_end(make_trainer(), TASK, None, make_batch(99, *[BROKEN] * 11), 10)


def test_a_split_that_loses_too_much_is_not_scored(tmp_path: Path) -> None:
    report = SkipReport(tmp_path, limit=0.01, judged_after=100)
    report.on_test_batch_end(make_trainer(), TASK, None, make_batch(98, BROKEN, BROKEN), 0)
    with pytest.raises(UserError, match=r"2 of 100 samples of test .*unreadable image: 2"):
        report.on_test_end(make_trainer(), TASK)


def test_few_samples_decide_nothing(tmp_path: Path) -> None:
    report, trainer = SkipReport(tmp_path, limit=0.01), make_trainer()
    report.on_train_batch_end(trainer, TASK, None, make_batch(1, *[BROKEN] * 500), 0)
    report.on_train_end(trainer, TASK)
    assert report.counts.total() == 500


def test_a_part_of_a_sample_is_counted_but_no_lost_sample(tmp_path: Path) -> None:
    part = Skip("object beyond data.max_objects", "shards/000000.tar key 7", lost=False)
    report, trainer = SkipReport(tmp_path, limit=0.01, judged_after=1), make_trainer()
    report.on_train_batch_end(trainer, TASK, None, make_batch(9, *[part] * 50), 0)
    report.on_train_end(trainer, TASK)
    assert report.counts == {(part.kind, False, "train"): 50}
    assert lost_samples(report.counts, "train") == 0


def test_a_high_share_of_skips_is_told_from_the_first_validation_on(tmp_path: Path) -> None:
    report, trainer = SkipReport(tmp_path, limit=0.5), make_trainer()
    report.on_validation_start(trainer, TASK)
    report.on_validation_batch_end(trainer, TASK, None, make_batch(1, *[BROKEN] * 3), 0)
    with pytest.warns(UserWarning, match=r"3 of 4 samples of val could not be used \(unreadable image: 3\)"):
        report.on_validation_end(trainer, TASK)
    assert report.usable_share() == 0.25


class Judged(VisionLanguageTask):
    """A task with a score."""

    monitor: ClassVar[str] = "val/score"  # type: ignore[misc]
    monitor_mode: ClassVar[str] = "max"

    def __init__(self) -> None:
        nn.Module.__init__(self)


@pytest.mark.parametrize(
    ("score", "usable", "best"),
    [(0.7, 1.0, 20), (0.4, 1.0, 10), (math.inf, 1.0, 10), (math.nan, 1.0, 10), (0.9, 0.25, 10)],
    ids=["better", "worse", "infinite", "not a number", "of one readable sample"],
)
@pytest.mark.filterwarnings("ignore:step 20 cannot be the best")
def test_only_scores_that_mean_something_select(score: float, usable: float, best: int, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (10, 20):
        store.path(step).touch()
    store.judge(10, Best(10, 0.5, "max val/score"))
    trainer = make_trainer(is_global_zero=True, global_step=20, callback_metrics={"val/score": torch.tensor(score)})
    Checkpoints(store, usable=lambda: usable).judge(trainer, Judged())
    found = store.best_so_far()
    assert found is not None
    assert found.step == best
    assert store.validated() == 20


def test_a_validation_that_a_full_disk_cannot_note_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = CheckpointStore(tmp_path)
    checkpoints = Checkpoints(store)
    monkeypatch.setattr(store, "judge", full)
    monkeypatch.setattr(checkpoints, "save", lambda _: True)
    scores = {"val/score": torch.tensor(0.5)}
    state = SimpleNamespace(fn="fit")
    trainer = make_trainer(
        is_global_zero=True, global_step=20, callback_metrics=scores, sanity_checking=False, state=state
    )
    with pytest.warns(UserWarning, match="the validation of step 20 could not be noted: .*No space left"):
        checkpoints.on_validation_end(trainer, Judged())


def test_skips_survive_a_resume(tmp_path: Path) -> None:
    before, after = SkipReport(tmp_path, 1.0), SkipReport(tmp_path, 1.0)
    before.on_train_batch_end(make_trainer(), TASK, None, make_batch(1, BROKEN), 0)
    before.on_validation_end(make_trainer(), TASK)
    after.load_state_dict(before.state_dict())
    after.on_train_batch_end(make_trainer(), TASK, None, make_batch(1, BROKEN), 0)
    after.on_train_end(make_trainer(), TASK)
    assert after.counts == {(BROKEN.kind, True, "train"): 2}


@pytest.mark.parametrize(("steps", "limit", "stops"), [(3, 4, False), (4, 4, True), (9, -1, False)])
def test_the_last_step_is_followed_by_a_validation(steps: int, limit: int, stops: bool) -> None:
    trainer = make_trainer()
    trainer.global_step, trainer.max_steps = steps, limit
    FinalValidation().on_train_batch_end(trainer, TASK, None, None, 0)
    assert trainer.should_stop is stops


def test_the_clock_goes_on_after_a_resume() -> None:
    clock = RunClock()
    clock.load_state_dict({"seconds": 100.0})
    assert 100 <= clock.seconds < 101


def test_predictions_are_ordered_by_id(tmp_path: Path) -> None:
    trainer = make_trainer(is_global_zero=True)
    PredictionWriter(tmp_path).write_on_epoch_end(trainer, TASK, [[{"id": "b"}], [{"id": "a"}]], None)
    assert json.loads((tmp_path / "predictions.json").read_text()) == [{"id": "a"}, {"id": "b"}]


def test_the_record_names_versions_and_commit() -> None:
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    state = git_state()
    assert state.keys() == {"commit", "modified"}
    assert state["commit"] is None or len(str(state["commit"])) == 40


def test_weights_that_are_no_longer_finite_are_not_saved_and_end_the_run(tmp_path: Path) -> None:
    weights = torch.nn.Linear(2, 2)
    weights.weight.data[1, 0] = torch.nan
    trainer = SimpleNamespace(global_step=3, lightning_module=weights)
    with pytest.raises(UserError, match=r"no longer finite .* after step 3, such as weight: nothing was saved"):
        Checkpoints(CheckpointStore(tmp_path)).save(trainer)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
