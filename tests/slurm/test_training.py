"""Pre-training over two nodes, interrupted in every way: it ends with the weights of an uninterrupted run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.slurm.cluster import Cluster, wait_until
from vle_lightning.cli import main
from vle_lightning.slurm.requeue import last_step, read_history

ROOT = Path(__file__).parents[2]
TOY = ROOT / "experiments" / "pretrain" / "toy.yaml"
STEPS = 80
TRAINER = {"max_steps": STEPS, "log_every_n_steps": 1, "enable_progress_bar": False}
EXPERIMENT = {
    "validate_every": 40,
    "save_every": 5,
    "model": {"architecture": "tiny"},
    "data": {"batch_size": 4, "global_batch_size": 16, "workers": 1, "limit_val": 16},  # accumulation 2 on two ranks
}
pytestmark = pytest.mark.slow


class Run(NamedTuple):
    """A submitted run."""

    job: str
    folder: Path

    def codes(self) -> list[int]:
        """Return with which code each start has ended."""
        return [start.code for start in read_history(self.folder)]

    def output(self) -> str:
        """Return what all its starts printed."""
        return "".join(file.read_text() for file in sorted(self.folder.glob("slurm-*.out")))

    def steps(self) -> list[int]:
        """Return the steps that TensorBoard has a training loss of, in the order of their logging."""
        events = EventAccumulator(str(self.folder)).Reload()
        return [event.step for event in events.Scalars("train/loss")]


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(cluster: Cluster, workplace: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("SLURM_CONF", str(cluster.config))
        yield


def submit(name: str, pause: float = 0.0, *options: str) -> Run:
    """Submit a run that waits ``pause`` seconds before each of its two micro-batches a step."""
    slow = {"class_path": "tests.slurm.slow.Slow", "init_args": {"seconds": pause}}
    experiment = {**EXPERIMENT, "trainer": {**TRAINER, "callbacks": [slow]}}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(experiment))
    job = ["--nodes", "2", "--gpus", "0", "--devices", "1", "--cpus", "1", "--time", "10", *options, "--submit"]
    fit = ["--config", f"{name}.yaml", "--run_name", name]
    told = slurm("write", "--experiment", str(TOY), *job, "--", *fit)
    number = re.search(r"as job (\d+)", told)
    assert number is not None, told
    return Run(number.group(1), Path("checkpoints", name).absolute())


def slurm(*arguments: str) -> str:
    """Run one of our commands and return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main(["slurm", *arguments]) == 0
    return told.getvalue()


def finish(cluster: Cluster, run: Run, seconds: float) -> None:
    """Wait until a run is done."""
    assert cluster.wait_for_end(run.job, seconds) == "COMPLETED", run.output()


def assert_same_end(run: Run, straight: Run) -> None:
    """Compare weights, optimiser, last loss and scores of two runs, bit by bit."""
    ends = [torch.load(each.folder / "last.ckpt", weights_only=True) for each in (run, straight)]
    assert [end["global_step"] for end in ends] == [STEPS, STEPS]
    torch.testing.assert_close(ends[0]["state_dict"], ends[1]["state_dict"], rtol=0, atol=0)
    moments = [end["optimizer_states"][0]["state"] for end in ends]
    torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=0)
    assert ends[0]["lr_schedulers"] == ends[1]["lr_schedulers"]
    losses = [json.loads((each.folder / "progress.json").read_text())["loss"] for each in (run, straight)]
    assert losses[0] == losses[1]
    scores = [json.loads((each.folder / "metrics.json").read_text()) for each in (run, straight)]
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def straight(cluster: Cluster) -> Run:
    """A run that nothing interrupts."""
    run = submit("straight")
    finish(cluster, run, 300)
    assert run.codes() == [0]
    assert run.steps() == list(range(STEPS))
    return run


def test_a_run_goes_on_behind_its_time_limit(cluster: Cluster, straight: Run) -> None:
    # more than a minute of steps, and a signal 70 seconds after the start at most: Slurm may send it earlier
    limited = submit("limited", 0.45, "--time", "2", "--signal", "50")
    finish(cluster, limited, 600)
    *interrupted, done = limited.codes()
    assert (set(interrupted), done) == ({75}, 0), limited.output()
    assert limited.steps() == list(range(STEPS))  # one curve: no step is lost, none comes twice
    assert_same_end(limited, straight)


def test_a_run_goes_on_when_a_rank_was_killed(cluster: Cluster, straight: Run) -> None:
    killed = submit("killed", 0.1)
    wait_until(lambda: last_step(killed.folder) >= 10, 240, "the first checkpoints")
    assert re.search(r"^killed +running +\d+/80 ", slurm("status"), re.MULTILINE)
    os.kill(task(cluster, killed, rank=1), signal.SIGKILL)
    finish(cluster, killed, 300)
    *crashed, done = killed.codes()
    assert (len(crashed), done) == (1, 0)
    assert crashed[0] >= 128
    assert_same_end(killed, straight)
    assert re.search(r"^killed +done +80/80 .* step 80 +1$", slurm("status"), re.MULTILINE)


def task(cluster: Cluster, run: Run, rank: int) -> int:
    """Return the process of a rank."""
    marks = {f"SLURM_JOB_ID={run.job}".encode(), f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
    for process in cluster.processes():
        environment = set(Path(f"/proc/{process}/environ").read_bytes().split(b"\0"))
        if marks <= environment and f"SLURM_TASK_PID={process}".encode() in environment:
            return process
    raise AssertionError(f"job {run.job} has no rank {rank}")


def test_a_wrong_number_of_tasks_is_refused_before_the_first_step(cluster: Cluster) -> None:
    written = submit("refused", 0.0, "--sbatch=--hold")
    cluster.call("scancel", written.job)
    script = written.folder / "job.sbatch"
    text = script.read_text().replace("--ntasks-per-node=1", "--ntasks-per-node=2").replace("#SBATCH --hold\n", "")
    script.write_text(text)
    refused = written._replace(job=cluster.call("sbatch", "--parsable", str(script), environment=dict(os.environ)))
    assert cluster.wait_for_end(refused.job, 180) == "FAILED"
    assert cluster.job(refused.job)["Restarts"] == "0"
    assert refused.codes() == [2]
    told = refused.output()
    assert (
        "trainer.devices is 1 a node, but the Slurm step has 2 task(s) a node: set #SBATCH --ntasks-per-node=1" in told
    )
    assert "Traceback" not in told
    assert not list(refused.folder.glob("step_*"))


def test_of_two_jobs_on_one_run_one_trains_and_the_other_says_who_does(cluster: Cluster) -> None:
    slow = {"class_path": "tests.slurm.slow.Slow", "init_args": {"seconds": 1.0}}
    experiment = {**EXPERIMENT, "trainer": {**TRAINER, "callbacks": [slow]}}
    Path("contended.yaml").write_text(yaml.safe_dump(experiment))
    fit = f"env PYTHONPATH={ROOT} {sys.executable} -m vle_lightning fit --config {TOY} --config contended.yaml"
    fit += " --run_name contended --trainer.accelerator cpu --trainer.devices 1 --trainer.max_steps 10 --ckpt_path auto"
    outputs = [Path(f"contended_{name}.out").absolute() for name in "ab"]
    jobs = [
        cluster.call("sbatch", "--parsable", "--nodes=1", "--exclusive", f"--output={output}", "--wrap", f"srun {fit}")
        for output in outputs
    ]
    ends = [cluster.wait_for_end(job, 300) for job in jobs]
    told = [output.read_text() for output in outputs]
    assert sorted(ends) == ["COMPLETED", "FAILED"], told
    refused = ends.index("FAILED")
    assert re.search(rf"contended is in use: process \d+ on \S+, Slurm job {jobs[1 - refused]}, started", told[refused])
    assert last_step(Path("checkpoints", "contended")) == 10
