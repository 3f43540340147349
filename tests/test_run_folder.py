"""Run folders: which names they may have, which are set aside, and that one process at a time trains in one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vle_lightning.errors import UserError
from vle_lightning.run_folder import RunFolder, check_run_name
from vle_lightning.run_lock import RunLock

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from vle_lightning.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/path/victim", "../victim", "a\nb", "a\0b", "x" * 300, "a\\b"])
def test_a_run_name_is_one_plain_path_component(name: str) -> None:
    with pytest.raises(UserError, match="run_name .*give one plain name"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["pretrain-toy", "a.b", "läuft", "run 7", "x" * 200])
def test_plain_names_are_taken(name: str) -> None:
    assert check_run_name(name) == name


def test_a_strangers_folder_is_neither_renamed_nor_written_into(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "config.yaml").write_text("database: postgres\n")
    with pytest.raises(UserError, match=r"holds config.yaml.*choose another run_name"):
        RunFolder(victim).set_aside()
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("last.ckpt", "weights of Lightning's own ModelCheckpoint"),
        ("run.json", '{"name": "somebody\'s"}'),
        ("run.json", "no JSON"),
        ("progress.json", "[1, 2]"),
        ("metrics.json", '{"accuracy": 0.5}'),
    ],
)
def test_names_that_others_use_are_no_record_of_ours(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    folder = RunFolder(tmp_path)
    for start in (folder.set_aside, folder.refuse_strangers):
        with pytest.raises(UserError, match=rf"holds {file}.*choose another run_name"):
            start()
    assert (tmp_path / file).read_text() == content


def test_a_link_to_a_checkpoint_is_a_record_of_ours_even_where_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "last.ckpt").symlink_to("step_000400.ckpt")
    (tmp_path / "a" / "run.json").write_text("cut sho")
    RunFolder(tmp_path / "a").refuse_strangers()
    RunFolder(tmp_path / "a").set_aside()
    assert (tmp_path / "a.1" / "last.ckpt").is_symlink()


@pytest.mark.parametrize("name", ["checkpoints.json", "run.json", "metrics.json", "predictions.json", "config.yaml"])
def test_a_folder_in_a_records_place_is_told_before_the_start(tmp_path: Path, name: str) -> None:
    RunFolder(tmp_path).refuse_folders()
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder where this run writes a file"):
        RunFolder(tmp_path).refuse_folders()


def test_a_config_that_a_power_cut_has_emptied_is_no_strangers(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    folder = RunFolder(tmp_path)
    folder.refuse_strangers()
    assert not folder.holds_a_run()  # nor is it set aside as one


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", '{"steps": 4, "samples_seen": 64}'),
        ("progress.json", '{"step": 4, "samples_per_second": null}'),
        ("config.yaml", "# lightning\nseed_everything: 0\nrun_name: a\n"),
    ],
)
def test_a_folder_with_a_record_of_ours_is_set_aside(tmp_path: Path, file: str, content: str) -> None:
    for number in (1, 2):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / file).write_text(content)
        RunFolder(tmp_path / "a").set_aside()
        assert (tmp_path / f"a.{number}" / file).read_text() == content


def test_a_folder_that_holds_a_batch_script_alone_stays(tmp_path: Path) -> None:
    (tmp_path / "job.sbatch").touch()
    RunFolder(tmp_path).set_aside()
    assert (tmp_path / "job.sbatch").exists()


def hold(folder: Path, job: str | None = None) -> subprocess.Popen[str]:
    """Let another process take the lock; return once it has."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"SLURM_JOB_ID": job} if job else {})
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process as hard as the system can."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_second_process_is_told_who_holds_the_folder_until_that_one_dies(tmp_path: Path) -> None:
    holder = hold(tmp_path / "run")
    with pytest.raises(UserError, match=rf"is in use: process {holder.pid} on .*Choose another run_name"):
        RunLock(tmp_path / "run", {}).take()
    end(holder)
    lock = RunLock(tmp_path / "run", {})
    lock.take()
    lock.release()
    assert not (tmp_path / "run").exists()  # the lock lies beside the folder


def test_a_requeued_job_waits_for_its_own_earlier_start_alone(tmp_path: Path) -> None:
    holder = hold(tmp_path / "run", job="17")
    with pytest.raises(UserError, match="Slurm job 17"):
        RunLock(tmp_path / "run", {"SLURM_JOB_ID": "18"}).take()
    with pytest.raises(UserError, match="Slurm job 17"):
        RunLock(tmp_path / "run", {"SLURM_JOB_ID": "17"}).take(patience=0)
    assert holder.stdin is not None
    holder.stdin.close()  # ends it within moments, as the last processes of a requeued job end
    lock = RunLock(tmp_path / "run", {"SLURM_JOB_ID": "17"})
    lock.take(patience=30)
    lock.release()
    holder.wait()


def test_a_folder_that_is_reached_by_a_link_has_one_lock(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alias").symlink_to(tmp_path / "disk" / "run")
    holder = hold(tmp_path / "disk" / "run")
    with pytest.raises(UserError, match=rf"is in use: process {holder.pid}"):
        RunLock(tmp_path / "checkpoints" / "alias", {}).take()
    end(holder)


def test_a_damaged_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").write_bytes(b"\xff\x00 no json")
    lock = RunLock(tmp_path / "run", {})
    lock.take()
    lock.release()
    assert json.loads((tmp_path / ".run.lock").read_text())["pid"] == os.getpid()  # whose it was last
