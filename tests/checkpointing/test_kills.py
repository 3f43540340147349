"""A run that is killed again and again, in its saves too, or told to stop, goes on where it was."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.checkpointing.test_store import files_of_at_most
from tests.strategies.losses import read_losses
from vle_lightning.checkpointing.store import UNFINISHED, CheckpointStore, verify
from vle_lightning.cli import main

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KILLS, STEPS, SAVE_EVERY = 25, 100_000, 2  # kills of each way to run
SMALL = {
    "trainer": {"max_steps": STEPS, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1},
    "model": {"architecture": "tiny"},
    "data": {"batch_size": 4, "global_batch_size": 4, "workers": 0, "limit_val": 4},
    "validate_every": 25,
    "save_every": SAVE_EVERY,
}
SHORT = ("--trainer.max_steps", "60")
PATIENCE = 120  # seconds
WAYS = {  # to run
    "one process": ("--data.workers", "0"),
    "two workers": ("--data.workers", "2"),
    "accumulation": ("--data.batch_size", "2", "--data.global_batch_size", "8"),
    "two ranks": ("--trainer.devices", "2", "--trainer.strategy", "ddp"),
}


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    (workplace / "killed.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.syspath_prepend(str(ROOT))
        patch.setenv("PYTHONPATH", str(ROOT))  # of the server that starts processes
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Starts processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vle_lightning.cli"])
    return context


def fit(name: str, *options: str) -> list[str]:
    experiment = ROOT / "experiments/pretrain/toy.yaml"
    return ["fit", "--config", str(experiment), "--config", "killed.yaml", "--run_name", name, *options]


def train(name: str, options: tuple[str, ...], ranks: Mapping[str, str] | None = None) -> None:
    torch.set_num_threads(1)
    os.environ.update(ranks or {})
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (of the process)
    record = ["--trainer.callbacks+=tests.strategies.losses.LossRecord", f"--trainer.callbacks.folder={name}_losses"]
    sys.exit(main([*fit(name, *options), "--ckpt_path", "auto", *record]))


def start(server: ForkServerContext, name: str, *options: str) -> BaseProcess:
    process = server.Process(target=train, args=(name, options))
    process.start()
    return process


def start_all(server: ForkServerContext, name: str, *options: str) -> list[BaseProcess]:
    """Start a process for each rank: Lightning would start the second one by the command of this test."""
    if "--trainer.devices" not in options:
        return [start(server, name, *options)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        meeting["MASTER_PORT"] = str(free.getsockname()[1])
    ranks = [{**meeting, "LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(2)]
    processes = [server.Process(target=train, args=(name, options, environment)) for environment in ranks]
    for process in processes:
        process.start()
    return list(processes)


def wait_for_training(process: BaseProcess, losses: Path, steps: int = 1) -> None:
    """Wait until so many micro-batches more have left their loss: however fast the machine is, the run comes on."""
    before = lines_in(losses)
    limit = time.monotonic() + PATIENCE
    while lines_in(losses) < before + steps:
        assert process.is_alive(), f"ended with {process.exitcode} before its first step"
        assert time.monotonic() < limit, "never trained"
        time.sleep(0.005)


def lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for_a_save(folder: Path) -> None:
    limit = time.monotonic() + PATIENCE
    while not any(folder.glob(f"step_*{UNFINISHED}")):
        assert time.monotonic() < limit, "never saved"


@pytest.mark.parametrize("way", WAYS)
def test_no_kill_loses_more_than_the_work_since_the_last_save(
    way: str, server: ForkServerContext, workplace: Path
) -> None:
    draw, name = random.Random(way), f"killed_{way.replace(' ', '_')}"
    losses = workplace / f"{name}_losses" / "0.jsonl"
    store, saved, within_a_save = CheckpointStore(workplace / "checkpoints" / name), 0, 0
    for kill in range(KILLS):
        processes = start_all(server, name, *WAYS[way])
        wait_for_training(processes[0], losses, draw.randrange(1, 8))
        time.sleep(draw.uniform(0, 0.2))
        if kill % 2:
            wait_for_a_save(store.folder)
        kill_all(processes)
        within_a_save += any(store.folder.glob(f"*{UNFINISHED}"))
        done = max(step for (step, _), _ in rows_of(losses.parent)) + 1
        newest = store.newest()
        kept = store.steps()[-1] if store.steps() else 0
        assert done - kept <= SAVE_EVERY, f"kill {kill}: {done} steps were done, {newest} is the newest"
        assert kept >= saved, f"kill {kill}: {saved} was saved before, {newest} is the newest"
        for step in store.steps():
            verify(store.path(step), step)
        saved = kept
    assert saved > 2 * SAVE_EVERY, "the run has not come far between the kills"
    assert within_a_save >= KILLS // 5, "too few kills met a save to say anything"
    found, first = rows_of(losses.parent), dict[tuple[int, int], float]()
    different = [key for key, loss in found if first.setdefault(key, loss) != loss]
    assert not different, f"steps that were made again after a kill had other losses: {different[:5]}"
    left_out = set(range(done)) - {step for step, _ in first}
    assert not left_out, f"steps were left out: {sorted(left_out)[:5]}"
    print(
        f"{way}: {KILLS} kills, {within_a_save} of them within a save; {saved} steps saved; {len(found)} "
        f"micro-batches, {len(found) - len(first)} of them made again after a kill, 0 different, 0 left out"
    )


def kill_all(processes: Sequence[BaseProcess]) -> None:
    """Kill a run with all its ranks and loaders, as a machine that loses power does."""
    family = [process.pid for process in processes if process.pid is not None]
    for pid in family:  # grows on the way
        children = Path(f"/proc/{pid}/task/{pid}/children")
        family += [int(child) for child in children.read_text().split()] if children.exists() else []
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.join()
    limit = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}/exe").exists() for pid in family[len(processes) :]):
        assert time.monotonic() < limit, "a killed process is still there"
        time.sleep(0.01)


def rows_of(folder: Path) -> list[tuple[tuple[int, int], float]]:
    """Return step, micro-batch and loss of each line of all ranks, in the order of writing; a cut line is left out."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [((row["step"], row["number"]), row["loss"]) for row in rows]


def test_a_run_killed_often_ends_like_one_that_was_not(server: ForkServerContext, workplace: Path) -> None:
    for pause in (0.0, 0.1, 0.2):
        process = start(server, "resumed", *SHORT)
        wait_for_training(process, workplace / "resumed_losses" / "0.jsonl")
        time.sleep(pause)
        process.kill()
        process.join()
    process = start(server, "resumed", *SHORT)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert_same(straight_run(server, workplace), workplace, "resumed")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_is_told_to_stop_saves_its_step(
    number: signal.Signals, server: ForkServerContext, workplace: Path
) -> None:
    name = f"stopped_{number.name}"
    process = start(server, name, *SHORT, "--save_every", "1000")
    wait_for_training(process, workplace / f"{name}_losses" / "0.jsonl")
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode == 75
    done = max(step for step, _ in read_losses(workplace / f"{name}_losses")) + 1
    assert CheckpointStore(workplace / "checkpoints" / name).steps()[-1] == done  # not a step more, not one less
    process = start(server, name, *SHORT)
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert_same(straight_run(server, workplace), workplace, name)


def straight_run(server: ForkServerContext, workplace: Path) -> str:
    """Return the name of a run that nothing has interrupted."""
    if not (workplace / "straight_losses").exists():
        process = start(server, "straight", *SHORT)
        process.join(PATIENCE)
        assert process.exitcode == 0
    return "straight"


def assert_same(straight: str, workplace: Path, name: str) -> None:
    """Compare the losses of each step, the latest attempt at it, and the weights at the end, bit for bit."""
    assert read_losses(workplace / f"{name}_losses") == read_losses(workplace / f"{straight}_losses")
    folders = (workplace / "checkpoints" / run for run in (straight, name))
    expected, actual = (torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in folders)
    assert all(torch.equal(actual[key], weight) for key, weight in expected.items())


def test_a_full_disk_ends_no_run_and_loses_no_checkpoint(workplace: Path) -> None:
    folder = workplace / "checkpoints" / "full"
    assert main(fit("full", "--trainer.max_steps", "2")) == 0
    # a checkpoint is larger, all else smaller
    with files_of_at_most(1_000_000), pytest.warns(UserWarning, match="step 4 could not be saved.*is there as before"):
        code = main([*fit("full", "--trainer.max_steps", "4"), "--ckpt_path", "auto"])
    assert code == 2  # the last step is lost, and the record says which one the checkpoint holds
    assert CheckpointStore(folder).steps() == [2]
    record = json.loads((folder / "run.json").read_text())
    assert (record["steps"], record["checkpoint_step"], record["samples_seen"]) == (2, 2, 8)
    verify(folder / "step_000002.ckpt", 2)
    assert main([*fit("full", "--trainer.max_steps", "4"), "--ckpt_path", "auto"]) == 0
    assert CheckpointStore(folder).steps() == [2, 4]


@pytest.mark.parametrize("further", ["2", "4"], ids=["at the end", "on the way"])
def test_a_validation_that_a_kill_cut_short_is_made_up_for(further: str, workplace: Path) -> None:
    name = f"owed_{further}"
    options = ("--validate_every", "2", "--save_every", "2")
    assert main(fit(name, "--trainer.max_steps", "2", *options)) == 0
    folder = workplace / "checkpoints" / name
    straight = json.loads((folder / "checkpoints.json").read_text())["best"]
    (folder / "best.ckpt").unlink()  # killed between the save of step 2 and the end of its validation
    (folder / "checkpoints.json").unlink()
    assert main([*fit(name, "--trainer.max_steps", further, *options), "--ckpt_path", "auto"]) == 0
    record = json.loads((folder / "run.json").read_text())
    assert (record["checkpoint"], record["rule"]) == ("best.ckpt", "min val/loss")
    if further == "2":
        again = json.loads((folder / "checkpoints.json").read_text())["best"]
        assert again["step"] == straight["step"] == 2
        assert again["score"] == pytest.approx(straight["score"], rel=1e-6)
    else:
        steps = [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("val/loss")]
        assert len(steps) >= 2
        assert CheckpointStore(folder).validated() == 4


def test_a_run_goes_on_with_the_learning_rate_of_this_start(workplace: Path) -> None:
    assert main(fit("rate", "--trainer.max_steps", "8", "--validate_every", "2")) == 0
    start = str(workplace / "checkpoints" / "rate" / "step_000006.ckpt")
    changed = ("--trainer.max_steps", "8", "--validate_every", "2", "--model.optim.lr", "5e-4", "--ckpt_path", start)
    assert main(fit("lower", *changed)) == 0
    content = torch.load(workplace / "checkpoints" / "lower" / "last.ckpt", weights_only=True)
    assert {group["initial_lr"] for group in content["optimizer_states"][0]["param_groups"]} == {5e-4}
