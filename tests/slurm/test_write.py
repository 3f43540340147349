"""The batch script, its check against the experiment, and the table of runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.sampler import accumulation
from tests.slurm import cluster
from vle_lightning.errors import UserError
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.slurm import status
from vle_lightning.slurm.checks import check, describe_shards, refuse_ours
from vle_lightning.slurm.command import parse, run_slurm
from vle_lightning.slurm.script import Resources, headers, time_limit, warning_time, write_script
from vle_lightning.slurm.status import FRESH, duration, read_run

ROOT = Path(__file__).parents[2]
TOY = ROOT / "experiments" / "pretrain" / "toy.yaml"
GPUS = Resources(nodes=16, devices=8, on_gpus=True, cpus=3, threads=1, time="24:00:00", partition="a100")
CPUS = Resources(nodes=2, devices=1, on_gpus=False, cpus=1, threads=1, time="1")


def settings(**data: object) -> dict[str, Any]:
    """Every option that the checks look at, as vle_base.yaml has them."""
    published = {"global_batch_size": 2048, "batch_size": 16, "root": "nowhere", "sources": {"coco": 1.0}}
    trainer = {"accelerator": "auto", "strategy": "auto", "max_steps": 25000}
    return {"trainer": trainer, "data": {**published, "train_split": "train", "workers": 2, **data}}


def slurm(arguments: list[str]) -> int:
    """Run a command, where every experiment is that of `settings`."""
    return run_slurm(arguments, lambda fit: {**settings(), "run_name": None, "run_root": "runs"}, accumulation)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("24:00:00", 86400),
        ("1-0", 86400),
        ("2-12:30", 217800),
        ("1-02:03:04", 93784),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(told: str, seconds: int | None) -> None:
    assert time_limit(told) == seconds


@pytest.mark.parametrize("told", ["soon", "1:2:3:4", "-5", ""])
def test_other_time_limits_are_refused(told: str) -> None:
    with pytest.raises(UserError, match="--time"):
        time_limit(told)


@pytest.mark.parametrize(
    ("limit", "wanted", "seconds"),
    [("24:00:00", None, 300), ("10", None, 150), ("UNLIMITED", None, 300), ("1", 45, 45), ("2-0", 65535, 65535)],
)
def test_the_signal_comes_before_the_limit(limit: str, wanted: int | None, seconds: int) -> None:
    assert warning_time(limit, wanted) == seconds


@pytest.mark.parametrize(("limit", "wanted"), [("1", 60), ("1", 0), ("2-0", 65536)])
def test_a_signal_that_would_come_too_late_or_never_is_refused(limit: str, wanted: int) -> None:
    with pytest.raises(UserError, match="--signal"):
        warning_time(limit, wanted)


def test_there_is_a_task_for_each_device(tmp_path: Path) -> None:
    options = set(headers("run", tmp_path, GPUS))
    assert options >= {
        "--nodes=16",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--signal=USR1@300",  # to the tasks; B: would send it to the shell
        "--open-mode=append",
        "--requeue",
        "--partition=a100",
        f"--output={tmp_path}/slurm-%j.out",
    }
    assert not any("gpus" in option for option in headers("run", tmp_path, CPUS))


def test_the_script_is_a_script_and_runs_fit_on_all_devices(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    script = write_script("run", folder, GPUS, "/opt/python", ["--config", "my file.yaml"], "module load cuda")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "--kill-on-bad-exit=1" in script
    assert (
        "/opt/python -m vle_lightning fit --config 'my file.yaml' --trainer.num_nodes 16 --trainer.devices 8 "
        "--trainer.accelerator gpu --ckpt_path auto" in script
    )
    assert "NCCL" not in write_script("run", folder, CPUS, "python", [])


def run_script(folder: Path, code: int) -> subprocess.CompletedProcess[str]:
    """Run a script with programs that stand for Slurm's and for Python."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {
        "scontrol": 'printf "first\\nsecond\\n"',
        "srun": f'echo "srun at $MASTER_ADDR:$MASTER_PORT"; exit {code}',
        "python": 'echo "python $*"',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    script = write_script("run", folder, CPUS, "python", ["--config", "x.yaml"])
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "40017"}
    return subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)


def test_ranks_meet_at_the_first_node_and_what_follows_is_asked_with_the_code(tmp_path: Path) -> None:
    done = run_script(tmp_path, 75)
    assert done.stdout.splitlines() == [
        "srun at first:12017",  # 12,000 and the rest of 40,017 by 20,000
        f"python -m vle_lightning.slurm requeue --run {tmp_path} --code 75",
    ]
    assert done.returncode == 75


@pytest.mark.parametrize(("nodes", "micro_batches"), [(1, 16), (2, 8), (4, 4), (16, 1)])
def test_accumulation_fills_the_global_batch(nodes: int, micro_batches: int) -> None:
    job = Resources(nodes=nodes, devices=8, on_gpus=True, cpus=3, threads=1, time="1")
    facts = check(settings(), job, accumulation)
    assert facts["batch"].endswith(f"16 x {8 * nodes} ranks x accumulation {micro_batches}")
    assert "not checked" in facts["shards"]


def test_more_devices_than_a_step_has_batches_get_smaller_ones() -> None:
    job = Resources(nodes=32, devices=8, on_gpus=True, cpus=3, threads=1, time="1")
    assert check(settings(), job, accumulation)["batch"].endswith("= 8 x 256 ranks x accumulation 1")


def test_an_unknown_strategy_is_refused_before_the_job_is() -> None:
    wanted = settings()
    wanted["trainer"]["strategy"] = "zero"
    with pytest.raises(UserError, match="trainer.strategy: there is no 'zero'; choose one of auto, ddp, fsdp"):
        check(wanted, GPUS, accumulation)


def test_devices_that_do_not_divide_the_batch_are_refused_with_the_nearest_choices() -> None:
    job = Resources(nodes=6, devices=8, on_gpus=True, cpus=3, threads=1, time="1")
    with pytest.raises(UserError, match=r"on 6 node\(s\) with 8.*data.global_batch_size 1536 or 2304"):
        check(settings(), job, accumulation)


@pytest.mark.parametrize(("accelerator", "job"), [("cpu", GPUS), ("gpu", CPUS)])
def test_an_experiment_for_other_devices_is_refused(accelerator: str, job: Resources) -> None:
    wanted = settings()
    wanted["trainer"]["accelerator"] = accelerator
    with pytest.raises(UserError, match=f"trainer.accelerator is {accelerator}"):
        check(wanted, job, accumulation)


def test_shards_are_counted_where_they_can_be_read(toy_world: Path) -> None:
    data = settings(root=str(toy_world / "shards"), global_batch_size=16)["data"]
    manifest = json.loads((toy_world / "shards" / "coco" / "train" / "manifest.json").read_text())
    told = describe_shards(data, 30)
    assert told.startswith(f"{len(manifest['shards'])} with {manifest['samples']} samples an epoch")
    with pytest.raises(UserError, match="an epoch of data.sources has"):
        describe_shards({**data, "global_batch_size": 100_000}, 30)
    with pytest.raises(UserError, match="data.sources: there is no"):
        describe_shards({**data, "sources": {"sbu": 1.0}}, 30)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--nodes", "0", "--time", "1"], "--nodes is 0"),
        (["--nodes", "2", "--time", "1", "--gpus", "0"], "exactly one"),
        (["--nodes", "2", "--time", "1", "--gpus", "8", "--devices", "1"], "exactly one"),
        (["--nodes", "2"], "--time"),
        (["--nodes", "2", "--time", "1", "--data.batch_size", "2"], "--data.batch_size"),
    ],
)
def test_wrong_options_end_with_one_sentence(arguments: list[str], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        parse(OneSentenceParser("write", allow_abbrev=False), arguments)


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ("--partition", "--partition"),
        ("--account", "--account"),
        ("--qos", "--qos"),
        ("--sbatch", "--sbatch"),
        ("--setup", "--setup"),
        ("--experiment", "run_name"),  # which follows from the file
        ("run_root", "run_root"),
        ("run_name", "run_name"),
    ],
)
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\u2028", "\u202e", "\u200b", "\udcff"])
def test_control_characters_never_reach_a_script(
    option: str, place: str, character: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (option, character) == ("--setup", "\n"):
        return  # commands of the user's own, one a line
    monkeypatch.chdir(tmp_path)
    text = f"x{character}touch victim"
    given = {"run_name": None, "run_root": "runs"} | ({option: text} if option in ("run_name", "run_root") else {})
    arguments = ["write", "--nodes", "1", "--time", "60", "--experiment", str(TOY)]
    Path(text).write_text("task: pretrain\n")  # the experiment file
    if option.startswith("--"):
        arguments += [option, f"'{text}'" if option == "--sbatch" else text]
    with pytest.raises(UserError, match=f"^({place}|command line).*(control character|UTF-8|cannot be printed)"):
        run_slurm(arguments, lambda fit: {**settings(), **given}, accumulation)
    assert list(tmp_path.iterdir()) == [tmp_path / text]


def test_an_open_quotation_mark_is_named() -> None:
    with pytest.raises(UserError, match="--sbatch .*cannot be split"):
        slurm(["write", "--nodes", "1", "--time", "60", "--sbatch=--comment='x"])


@pytest.mark.parametrize("option", ["--trainer.devices=4", "--ckpt_path"])
def test_what_the_job_decides_is_refused(option: str) -> None:
    with pytest.raises(UserError, match="follows from the job"):
        refuse_ours(["--config", str(TOY), option])


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(UserError, match="write, status, requeue"):
        slurm(["queue"])


def test_the_script_lies_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no sbatch
    arguments = ["write", "--experiment", str(TOY), "--nodes", "4", "--time", "1-0"]
    assert slurm(arguments) == 0
    script = tmp_path / "runs" / "pretrain-toy" / "job.sbatch"
    printed = capsys.readouterr().out
    assert script.read_text() in printed
    assert str(script) in printed
    assert "accumulation 4" in printed
    with pytest.raises(UserError, match="no sbatch on this machine"):
        slurm([*arguments, "--submit"])


def test_without_slurm_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find", lambda program: None)
    reason = cluster.what_is_missing()
    assert reason is not None
    assert "slurmctld" in reason
    assert "apt-get install -y --no-install-recommends slurm-wlm munge" in reason


def make_run(root: Path, name: str, step: int, age: float) -> Path:
    """Make the folder of a run of 1,000 steps of 64 samples at 32 samples/s."""
    folder = root / name
    folder.mkdir()
    progress = {"step": step, "steps": 1000, "samples_per_second": 32.0, "loss": 2.5, "devices": 2}
    (folder / "progress.json").write_text(json.dumps({**progress, "time": time.time() - age}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"global_batch_size": 64}}))
    return folder


def test_a_running_run_says_when_it_will_end(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", 400, age=3)
    (folder / "step_000380.ckpt").touch()
    (folder / "last.ckpt").symlink_to("step_000380.ckpt")
    row = read_run(folder, {}, time.time()).row()
    # 600 steps x 64 samples / 32 samples/s = 1,200 s
    assert row == ("run", "running", "400/1,000", "32.0", "2.5000", "20m", "step 380", "0")


def test_a_heartbeat_is_a_sign_of_life(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", 400, age=2 * FRESH)
    assert read_run(folder, {}, time.time()).state == "stopped"
    (folder / "ranks").mkdir()
    (folder / "ranks" / "0.json").touch()
    assert read_run(folder, {}, time.time()).state == "running"


@pytest.mark.parametrize(
    ("start", "queue", "state"),
    [
        ((75, True), {"run": "PENDING"}, "requeued"),
        ((75, True), {"run": "RUNNING"}, "running"),
        ((75, True), {}, "requeued"),
        ((2, False), {}, "refused"),
        ((137, False), {}, "stopped"),
    ],
)
def test_the_state_follows_the_queue_and_the_last_start(
    tmp_path: Path, start: tuple[int, bool], queue: dict[str, str], state: str
) -> None:
    folder = make_run(tmp_path, "run", 400, age=20)
    code, requeued = start
    line = {"job": "1", "time": time.time() - 10, "code": code, "step": 400, "requeued": requeued, "reason": ""}
    (folder / "starts.jsonl").write_text(json.dumps(line) + "\n")
    run = read_run(folder, queue, time.time())
    assert (run.state, run.restarts) == (state, int(requeued))


def test_a_run_with_its_scores_is_done(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run", 1000, age=5)
    (folder / "metrics.json").write_text("{}")
    assert read_run(folder, {}, time.time()).state == "done"
    (folder / "progress.json").write_text(json.dumps({"step": 1001, "time": time.time() + 60}))  # it goes on
    assert read_run(folder, {}, time.time() + 61).state == "running"


@pytest.mark.parametrize(("phase", "state"), [("predicting", "running"), ("ended", "done")])
def test_a_run_with_its_scores_may_still_predict(tmp_path: Path, phase: str, state: str) -> None:
    folder = make_run(tmp_path, "run", 1000, age=5)
    (folder / "metrics.json").write_text("{}")
    (folder / "ranks").mkdir()
    signs = [("now", 0, phase, 0.0), ("earlier", 1, "computing", 900.0)]  # two ranks then, one now
    for session, rank, at, age in signs:
        sign = {"session": session, "rank": rank, "phase": at, "time": time.time() - age}
        (folder / "ranks" / f"{rank}.json").write_text(json.dumps(sign))
    assert read_run(folder, {}, time.time()).state == state


def test_the_table_has_a_line_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "jobs", dict)
    make_run(tmp_path, "first", 10, age=1)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "job.sbatch").touch()
    (tmp_path / "no run").mkdir()
    assert slurm(["status", "--run_root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "first", "second"]
    assert "not started" in lines[2]
    with pytest.raises(UserError, match="no folder"):
        slurm(["status", "--run_root", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("seconds", "told"), [(None, "-"), (240, "4m"), (11220, "3h 07m"), (183600, "2d 03h"), (3599, "1h 00m")]
)
def test_durations_are_short(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told
