"""What follows the end of a job, and what a process can tell of its job."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from vle_lightning.errors import UserError
from vle_lightning.slurm import requeue
from vle_lightning.slurm.environment import SrunEnvironment, cluster_environment
from vle_lightning.slurm.job import REFUSAL, check_job, leave_reason, tasks_per_node
from vle_lightning.slurm.requeue import NOTHING, Start, decide, last_step, read_history, run_requeue, was_cancelled

TASK = {  # what srun told a task of two nodes with one task each (Slurm 22.05)
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "pretrain-toy",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
}
BATCH = {  # and the batch script, which it calls task 0 as well
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "pretrain-toy",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_NNODES": "2",
}


@pytest.mark.parametrize(
    ("code", "goes_on"),
    [(0, False), (2, False), (75, True), (70, True), (1, True), (134, True), (137, True), (143, True)],
)
def test_only_what_is_done_or_refused_does_not_start_again(code: int, goes_on: bool) -> None:
    assert decide(code, 40, [], is_cancelled=False).requeue == goes_on


def test_a_cancelled_job_stays_cancelled() -> None:
    decision = decide(75, 40, [], is_cancelled=True)
    assert not decision.requeue
    assert "cancelled; last checkpoint: step 40" in decision.reason


@pytest.mark.parametrize(
    ("earlier", "now", "goes_on"),
    [
        ([], NOTHING, True),
        ([NOTHING], NOTHING, True),
        ([NOTHING, NOTHING], NOTHING, False),
        ([10, 10], 10, True),  # the first of the three saved step 10
        ([10, 10, 10], 10, False),
        ([10, 10, 10], 11, True),
        (list(range(1, 50)), 50, True),
        ([5, 10, 10, 15, 15], 15, True),
    ],
)
def test_three_starts_in_a_row_without_a_newer_checkpoint_are_enough(
    earlier: list[int], now: int, goes_on: bool
) -> None:
    decision = decide(137, now, earlier, is_cancelled=False)
    assert decision.requeue == goes_on
    assert goes_on or "3 starts in a row" in decision.reason


def test_a_reason_names_the_signal() -> None:
    assert "SIGKILL" in decide(137, 3, [], is_cancelled=False).reason
    assert "code 1;" in decide(1, 3, [], is_cancelled=False).reason


def test_the_step_is_in_the_name_that_the_link_points_to(tmp_path: Path) -> None:
    link = tmp_path / "last.ckpt"
    assert last_step(tmp_path) == NOTHING
    link.symlink_to("step_000400.ckpt")
    assert last_step(tmp_path) == NOTHING  # it points to nothing
    (tmp_path / "step_000400.ckpt").mkdir()  # as FSDP and DeepSpeed write it
    assert last_step(tmp_path) == 400


@pytest.mark.parametrize(
    ("job", "cancelled"),
    [
        ({"JobState": "RUNNING", "RunTime": "00:00:30", "TimeLimit": "00:01:00", "PreemptTime": "None"}, False),
        ({"JobState": "COMPLETING", "RunTime": "00:00:30", "TimeLimit": "00:01:00", "PreemptTime": "None"}, True),
        ({"JobState": "COMPLETING", "RunTime": "00:01:03", "TimeLimit": "00:01:00", "PreemptTime": "None"}, False),
        ({"JobState": "COMPLETING", "RunTime": "00:00:30", "TimeLimit": "UNLIMITED"}, True),
        ({"JobState": "COMPLETING", "RunTime": "1-00:00:01", "TimeLimit": "1-00:00:00"}, False),
        ({"JobState": "COMPLETING", "RunTime": "00:00:30", "TimeLimit": "1-00:00:00", "PreemptTime": "2026"}, False),
        ({"JobState": "CANCELLED", "RunTime": "00:00:30", "TimeLimit": "00:01:00"}, True),
        ({}, False),  # the controller does not answer
    ],
)
def test_only_a_user_cancels(job: dict[str, str], cancelled: bool) -> None:
    assert was_cancelled(job) == cancelled


class Controller:
    """Answers like scontrol, and remembers what it was asked."""

    def __init__(self, state: str = "RUNNING") -> None:
        self.state = state
        self.requeued: list[str] = []

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "requeue":
            self.requeued.append(arguments[1])
        told = f"JobId={arguments[-1]} JobState={self.state} RunTime=00:00:30 TimeLimit=01:00:00 PreemptTime=None"
        return subprocess.CompletedProcess(arguments, 0, told, "")


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    controller = Controller()
    monkeypatch.setattr(requeue, "_scontrol", controller)
    return controller


def end(run: Path, code: int, job: str = "17") -> int:
    """End a start of a job."""
    return run_requeue(ArgumentParser(), ["--run", str(run), "--code", str(code), "--job", job])


def save(run: Path, step: int) -> None:
    """Leave a checkpoint."""
    (run / f"step_{step:06}.ckpt").touch()
    (run / "last.ckpt").unlink(missing_ok=True)
    (run / "last.ckpt").symlink_to(f"step_{step:06}.ckpt")


def test_a_run_is_requeued_while_it_advances_and_no_longer(
    tmp_path: Path, controller: Controller, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (5, 10):
        save(tmp_path, step)
        assert end(tmp_path, 75) == 0
    for _ in range(3):
        assert end(tmp_path, 1) == 0
    assert controller.requeued == ["17"] * 4  # twice with progress, twice without, and then no more
    assert "given up" in capsys.readouterr().out.splitlines()[-1]
    history = read_history(tmp_path)
    assert [(start.step, start.code, start.requeued) for start in history] == [
        (5, 75, True),
        (10, 75, True),
        (10, 1, True),
        (10, 1, True),
        (10, 1, False),
    ]
    assert end(tmp_path, 1, job="18") == 0  # submitted anew, it counts anew
    assert controller.requeued[-1] == "18"


def test_the_reason_of_a_refusal_outweighs_the_code_of_srun(tmp_path: Path, controller: Controller) -> None:
    leave_reason("trainer.devices is 8", {REFUSAL: str(tmp_path / "refused.txt")})
    end(tmp_path, 143)
    assert controller.requeued == []
    assert read_history(tmp_path)[-1].code == 2


def test_a_cancelled_job_is_not_requeued(tmp_path: Path, controller: Controller) -> None:
    controller.state = "COMPLETING"
    end(tmp_path, 75)
    assert controller.requeued == []


def test_a_full_disk_does_not_end_a_run_at_once_nor_let_it_start_for_ever(
    tmp_path: Path, controller: Controller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "starts.jsonl").mkdir()  # opening it fails like writing to a full disk
    monkeypatch.setattr(requeue, "read_history", lambda run: [])
    for restarts in range(4):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        end(tmp_path, 75)
    assert controller.requeued == ["17", "17"]
    assert "cannot be written" in capsys.readouterr().out


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    start = Start("17", 1.0, 75, 5, True, "why")
    (tmp_path / "starts.jsonl").write_text(json.dumps(start.__dict__) + '\n{"job": "17", "ti')
    assert read_history(tmp_path) == [start]


def test_a_controller_that_refuses_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(tmp_path, 75) == 1  # here is no such job, or no Slurm at all
    assert "cannot be requeued" in capsys.readouterr().out


def test_the_way_of_the_batch_script_is_light(tmp_path: Path) -> None:
    program = (
        "import sys, runpy\n"
        f"sys.argv[1:] = ['requeue', '--run', {str(tmp_path)!r}, '--code', '0', '--job', '17']\n"
        "try: runpy.run_module('vle_lightning.slurm', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'lightning', 'yaml', 'numpy'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "slurm: job 17: the run is done\n"), done.stderr


@pytest.mark.parametrize(
    ("changes", "nodes", "devices", "hint"),
    [
        ({}, 2, 8, "#SBATCH --ntasks-per-node=8, or --trainer.devices 1"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, 2, 1, "has 2 task(s) a node: set #SBATCH --ntasks-per-node=1"),
        ({"SLURM_STEP_TASKS_PER_NODE": "3,1"}, 2, 2, "1 and 3 task(s)"),
        ({}, 1, 1, "#SBATCH --nodes=1"),
        ({"SLURM_STEP_NUM_NODES": "4"}, 2, 1, "--trainer.num_nodes 4"),
    ],
)
def test_wrong_numbers_of_tasks_are_refused_with_the_remedy(
    changes: dict[str, str], nodes: int, devices: int, hint: str
) -> None:
    with pytest.raises(UserError, match="trainer") as refusal:
        check_job({**TASK, **changes}, nodes, devices)
    assert hint in str(refusal.value)


def test_several_nodes_without_srun_are_refused() -> None:
    with pytest.raises(UserError, match="put srun before python"):
        check_job(BATCH, 2, 1)
    with pytest.raises(UserError, match=r"num_nodes is 2, but nothing says which of them .* srun or torchrun"):
        check_job({}, 2, 1)


@pytest.mark.parametrize(
    ("environment", "nodes", "devices"),
    [
        (TASK, 2, 1),
        ({"MASTER_ADDR": "n1"}, 2, 8),  # no Slurm at all
        (BATCH, 1, 8),  # one process in an allocation: Lightning starts the others
        ({**BATCH, "NODE_RANK": "1"}, 2, 8),  # each node by hand
        ({**TASK, "TORCHELASTIC_RUN_ID": "1"}, 2, 8),  # srun starts torchrun, which starts the ranks
        ({**TASK, "SLURM_JOB_NAME": "bash"}, 1, 8),  # srun --pty bash
        ({**TASK, "SLURM_JOB_NAME": "interactive"}, 1, 8),
        ({**TASK, "SLURM_PTY_PORT": "4321"}, 1, 8),  # a shell with a name of its own
        ({**TASK, "SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_TASKS_PER_NODE": "4(x2),4"}, 3, 4),
    ],
)
def test_what_can_run_is_not_refused(environment: dict[str, str], nodes: int, devices: int) -> None:
    assert refusal(environment, nodes, devices) is None


def refusal(environment: dict[str, str], nodes: int, devices: int) -> str | None:
    """Return why a job is refused; None for one that can run."""
    try:
        check_job(environment, nodes, devices)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("environment", "nodes", "tasks"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NTASKS": "9"}, 4, [2, 2, 2, 1]),
        ({"SLURM_NTASKS_PER_NODE": "8"}, 2, [8, 8]),
        ({"SLURM_NTASKS": "5"}, 2, [3, 2]),
        ({}, 2, []),
    ],
)
def test_tasks_per_node_are_read_from_what_there_is(environment: dict[str, str], nodes: int, tasks: list[int]) -> None:
    assert tasks_per_node(environment, nodes) == tasks


def test_lightning_learns_its_ranks_from_srun_only_under_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    plugin = cluster_environment(TASK)
    assert isinstance(plugin, SrunEnvironment)
    assert (plugin.auto_requeue, plugin.global_rank(), plugin.world_size()) == (False, 1, 2)
    alone = cluster_environment(BATCH)
    assert alone is not None
    assert not alone.creates_processes_externally
    assert cluster_environment({}) is None
    assert cluster_environment({**TASK, "TORCHELASTIC_RUN_ID": "1"}) is None  # Lightning looks for torchrun first
