"""Who hangs is named, and the run ends; who is only slow is left alone."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback

from tests.callbacks.sick import NAP, PATIENCE, Run, kill, make_batch, outcomes, start
from vle_lightning.callbacks.heartbeat import Phase, Sign, describe, hanging_ranks, read_signs
from vle_lightning.callbacks.watchdog import EX_SOFTWARE, Watchdog
from vle_lightning.errors import UserError

TIMEOUT = 2.0  # seconds
SIGN = Sign("now", 0, "node", 100, Phase.COMPUTING, 5, 0, ("a", "b"), 50, 31.0, 7, 0.0)


def signs(*changes: dict[str, Any]) -> dict[int, Sign | None]:
    return {rank: replace(SIGN, rank=rank, pid=100 + rank, **change) for rank, change in enumerate(changes)}


def before(now: dict[int, Sign | None]) -> dict[int, Sign | None]:
    """What the same ranks told one beat ago."""
    return {rank: sign and replace(sign, beat=sign.beat - 1) for rank, sign in now.items()}


WAITING = {"phase": Phase.WAITING}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([WAITING, {}, WAITING], [1]),
        ([{"advances": 52}, {"phase": Phase.LOADING, "advances": 49}, WAITING], [1]),  # came least far
        ([{"advances": 52}, {**WAITING, "advances": 49}], [1]),
        ([WAITING, WAITING], [0, 1]),  # a device or the network
        ([WAITING, {}, {}], [1, 2]),
        ([WAITING, {"phase": Phase.FAILED, "advances": 99}], [1]),
        ([WAITING, {"phase": Phase.ENDED, "advances": 20}], [0]),  # it did all that it had to do
        ([WAITING, {"silent": 3.0}], []),  # slow, but it advances
        ([{}], [0]),
    ],
)
def test_of_those_that_came_least_far_the_ones_that_do_not_wait_hang(
    changes: list[dict[str, Any]], expected: list[int]
) -> None:
    now = signs(*changes)
    assert hanging_ranks(before(now), now, 30.0) == expected


def test_a_rank_that_tells_nothing_new_hangs_however_far_it_came() -> None:
    now = signs(WAITING, {"advances": 60}, WAITING)
    earlier = before(now) | {1: now[1]}
    assert hanging_ranks(earlier, now, 30.0) == [1]
    report = describe(earlier, now, [1], 30.0)
    assert "because of rank 1\n" in report
    assert "hangs: rank 1 (host node, pid 101): computing, step 5, micro-batch 0, 31 s; its samples: a, b" in report
    assert "gave no sign of life: dead, stopped, or its host is gone" in report


def test_a_rank_without_a_file_hangs() -> None:
    now = {**signs(WAITING), 1: None}
    assert hanging_ranks(now, now | signs({**WAITING, "beat": 8}), 30.0) == [1]
    assert "hangs: rank 1: gave no sign of life" in describe(now, now, [1], 30.0)


def test_if_all_wait_the_report_points_at_devices_and_network() -> None:
    now = signs(WAITING, WAITING)
    assert "devices and the network" in describe(before(now), now, [0, 1], 30.0)
    now = signs(WAITING, {})
    assert "devices and the network" not in describe(before(now), now, [1], 30.0)


def test_signs_of_earlier_starts_do_not_count(tmp_path: Path) -> None:
    for rank, session in enumerate(("now", "before", "now", "now")):
        replace(SIGN, rank=rank, session=session).write(tmp_path)
    (tmp_path / "2.json").write_text("")  # the host lost power
    now = read_signs(tmp_path, "now", 3)  # rank 3 is of a run on more devices
    assert now == {0: SIGN, 1: None, 2: None}


class Spy(Callback):
    """Lets the watchdog tell what it would in the middle of things."""

    def __init__(self, folder: Path) -> None:
        self.watchdog, self.file = Watchdog(folder, PATIENCE), folder / "ranks" / "0.json"
        self.told: list[str] = []

    def look(self) -> None:
        self.watchdog._tell()
        sign = json.loads(self.file.read_text())
        self.told.append(f"{sign['phase']} {sign['step']} {sign['micro_batch']} {len(sign['sample_ids'])}")

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 3:
            self.look()

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *_: object) -> None:
        if trainer.global_step == 1:
            self.look()

    def on_validation_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if not trainer.sanity_checking:
            self.look()


def test_a_healthy_run_tells_its_phase_and_stops_watching_at_its_end(tmp_path: Path) -> None:
    spy = Spy(tmp_path)
    run = Run(tmp_path, {}, steps=2, more=[spy.watchdog, spy])
    run.fit()
    assert spy.told[:2] == ["computing 0 3 2", "loading 0 3 0"]
    assert spy.told[-1] == "validating 99 0 2"
    assert json.loads(spy.file.read_text())["phase"] == "ended"
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    assert not (tmp_path / "hang.txt").exists()


@pytest.mark.slow
def test_slow_but_healthy_ranks_are_left_alone(tmp_path: Path) -> None:
    naps = {f"0.{number}.0": "nap" for number in range(4)}  # together longer than the timeout
    processes = start(tmp_path, faults=naps, steps=1, timeout=NAP * 3)
    outcomes(tmp_path, processes)
    assert not (tmp_path / "hang.txt").exists()


def test_saving_is_noted_and_what_was_before_comes_back(tmp_path: Path) -> None:
    watchdog, trainer = Watchdog(tmp_path, 30.0), Run(tmp_path, {}).trainer
    watchdog.on_train_batch_start(trainer, None, make_batch(4, 2), 0)  # type: ignore[arg-type]
    with watchdog.during(Phase.SAVING):
        watchdog._tell()
        assert json.loads((tmp_path / "ranks" / "0.json").read_text())["phase"] == "saving"
    watchdog._tell()
    sign = json.loads((tmp_path / "ranks" / "0.json").read_text())
    assert (sign["phase"], sign["step"], sign["micro_batch"]) == ("computing", 4, 2)


def test_an_error_of_its_own_ends_the_watch_and_stays_what_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path, {f"{step}.0.0": "nan" for step in range(3)}, timeout=PATIENCE)
    with pytest.raises(UserError, match="3 bad steps"), pytest.warns(UserWarning, match="nothing was learnt"):
        run.fit()
    assert json.loads((tmp_path / "ranks" / "0.json").read_text())["phase"] == "ended by an error"


@pytest.mark.slow
def test_a_rank_that_sleeps_is_named_by_all(tmp_path: Path) -> None:
    processes = start(tmp_path, faults={"2.1.0": "sleep"}, timeout=TIMEOUT)
    for process in processes:
        process.join(PATIENCE / 2)
    assert [process.exitcode for process in processes] == [EX_SOFTWARE] * 2
    named = f"hangs: rank 1 (host {{}}, pid {processes[1].pid}): computing, step 2, micro-batch 1".split("{}")
    texts = [(tmp_path / name).read_text() for name in ("hang.txt", "stderr-0", "stderr-1")]
    for text in texts:
        assert "because of rank 1\n" in text
        assert all(part in text for part in named)
        assert "its samples: 2.1.0, 2.1.1" in text
        assert "rank 0 (host" in text
        assert "waiting for others" in text
    assert "all_reduce" in texts[1]  # the stacks
    assert "in step" in texts[2]


@pytest.mark.slow
def test_a_stopped_process_is_named_as_one_that_gives_no_sign(tmp_path: Path) -> None:
    waiting, stopped = start(tmp_path, faults={"2.3.1": "stop"}, timeout=TIMEOUT)
    waiting.join(PATIENCE / 2)
    kill(stopped)
    assert waiting.exitcode == EX_SOFTWARE
    report = (tmp_path / "hang.txt").read_text()
    assert "hangs: rank 1 (host" in report
    assert f"pid {stopped.pid})" in report
    assert "gave no sign of life: dead, stopped" in report


@pytest.mark.slow
def test_a_lone_process_that_hangs_names_itself(tmp_path: Path) -> None:
    (process,) = start(tmp_path, ranks=1, faults={"1.2.0": "sleep"}, timeout=TIMEOUT)
    process.join(PATIENCE / 2)
    assert process.exitcode == EX_SOFTWARE
    assert "because of rank 0\n" in (tmp_path / "hang.txt").read_text()
