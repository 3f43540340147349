"""Our batch script on a real cluster, with a program in the place of training that ends as it is told to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_until
from vle_lightning.slurm.requeue import read_history
from vle_lightning.slurm.script import Resources, write_script

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
TRAINING = """#!/bin/bash
# python, but for `fit`: writes down which task of how many it is at which start, then does what the test says
if [ "$2" != vle_lightning ]; then exec {python} "$@"; fi
start=${{SLURM_RESTART_COUNT:-0}}
echo "$SLURM_PROCID $SLURM_NTASKS $SLURM_LOCALID $SLURMD_NODENAME $MASTER_ADDR $start" >> {run}/tasks.txt
cd {run}
{does}
"""


def save(step: str) -> str:
    """Return the command that leaves a checkpoint."""
    return f"[ $SLURM_PROCID = 0 ] && {{ touch step_{step}.ckpt; ln -sfn step_{step}.ckpt last.ckpt; }}"


def submit(cluster: Cluster, run: Path, does: str, tasks: int = 1, time: str = "5", warning: int = 30) -> str:
    """Submit a job whose training is the given shell commands, ``$start`` counting its starts; return its number."""
    run.mkdir(exist_ok=True)
    python = run / "python"
    python.write_text(TRAINING.format(python=sys.executable, run=run, does=does))
    python.chmod(0o755)
    job = Resources(nodes=2, devices=tasks, on_gpus=False, cpus=1, threads=1, time=time, warning=warning)
    (run / "job.sbatch").write_text(write_script("run", run, job, str(python), []))
    environment = {"PYTHONPATH": str(ROOT)}
    return cluster.call("sbatch", "--parsable", str(run / "job.sbatch"), environment=environment)


def finish(cluster: Cluster, job: str, run: Path, seconds: float = 90) -> str:
    """Wait for the end of a job; return its state and the codes of its starts, for an assertion that shows all."""
    state = cluster.wait_for_end(job, seconds)
    codes = " ".join(str(start.code) for start in read_history(run))
    return f"{state} after {cluster.job(job)['Restarts']} restarts: {codes}"


def output(run: Path) -> str:
    """Return what a job printed, over all its starts."""
    return "".join(file.read_text() for file in run.glob("slurm-*.out"))


def test_a_cluster_leaves_nothing_behind(cluster: Cluster) -> None:
    del cluster  # skips where none can be started
    with Cluster() as other:
        job = other.call("sbatch", "--parsable", "--output=/dev/null", "--wrap", "srun sleep 60")
        wait_until(lambda: other.job(job).get("JobState") == "RUNNING", 20, "the job's start")
        assert len(other.processes()) >= 6  # munge, the controller, two nodes, the job
    assert other.processes() == []
    assert not other.folder.exists()


def test_a_job_goes_on_until_it_is_done_and_its_output_too(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"{save('00000$((start + 1))')}; sleep 1; [ $start = 2 ] || exit 75", tasks=2)
    assert finish(cluster, job, tmp_path) == "COMPLETED after 2 restarts: 75 75 0"
    tasks = [line.split() for line in (tmp_path / "tasks.txt").read_text().splitlines()]
    first, second = cluster.nodes
    places = [("0", "4", "0", first), ("1", "4", "1", first), ("2", "4", "0", second), ("3", "4", "1", second)]
    for start in "012":  # neighbours in rank share a node; all meet at the first
        assert sorted(tuple(task[:4]) for task in tasks if task[5] == start) == places
    assert {task[4] for task in tasks} == {first}
    assert output(tmp_path).count("starts again from the last checkpoint") == 2


def test_a_job_that_saves_nothing_is_given_up_after_three_starts(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "kill -KILL $$")
    # srun's code is the highest of its tasks': 143 of one that was told to end before it killed itself
    assert re.fullmatch(r"FAILED after 2 restarts:( 137| 143){3}", finish(cluster, job, tmp_path))
    assert "given up: the run was ended by SIGKILL" in output(tmp_path)


def test_a_refused_job_is_not_requeued_though_srun_hides_its_code(cluster: Cluster, tmp_path: Path) -> None:
    refuse = 'if [ "$SLURM_PROCID" = 1 ]; then echo wrong > "$VLE_REFUSAL"; exit 2; else sleep 60; fi'
    job = submit(cluster, tmp_path, refuse)
    assert finish(cluster, job, tmp_path) == "FAILED after 0 restarts: 2"
    assert "fix that and submit again: wrong" in output(tmp_path)


def test_a_cancelled_job_is_not_requeued(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, f"{save('000005')}; trap 'exit 75' TERM; sleep 60 & wait")
    wait_until((tmp_path / "last.ckpt").exists, 30, "the job's first checkpoint")
    cluster.call("scancel", job)
    assert finish(cluster, job, tmp_path) == "CANCELLED after 0 restarts: 75"
    wait_until(lambda: "cancelled; last checkpoint: step 5" in output(tmp_path), 10, "the job's last word")


def test_a_signal_by_hand_saves_and_requeues(cluster: Cluster, tmp_path: Path) -> None:
    does = f"[ $start = 1 ] && exit 0; {save('000005')}; trap 'exit 75' USR1; sleep 60 & wait"
    job = submit(cluster, tmp_path, does)
    wait_until((tmp_path / "last.ckpt").exists, 30, "the job's first checkpoint")
    cluster.call("scancel", "--signal=USR1", job)
    assert finish(cluster, job, tmp_path) == "COMPLETED after 1 restarts: 75 0"


def test_a_job_that_misses_the_signal_is_requeued_at_its_limit(cluster: Cluster, tmp_path: Path) -> None:
    does = f"[ $start = 1 ] && exit 0; {save('000005')}; trap : USR1; while true; do sleep 1; done"
    job = submit(cluster, tmp_path, does, time="1", warning=20)
    state = finish(cluster, job, tmp_path, seconds=240)
    history = [json.loads(line)["requeued"] for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert (state.split(":")[0], history) == ("COMPLETED after 1 restarts", [True, False])
