"""The check of a GPU: every part runs here on the CPU at tiny width, and what goes wrong is in the record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from vle_lightning.errors import UserError
from vle_lightning.gpu_check import apart, command
from vle_lightning.gpu_check.apart import run_apart
from vle_lightning.gpu_check.command import run_gpu_check, run_part, target, tiny_scale
from vle_lightning.gpu_check.device import describe, peak_memory
from vle_lightning.gpu_check.parts import Part, Scale, make_parts
from vle_lightning.gpu_check.report import NotRunError, Report, read_report
from vle_lightning.gpu_check.runs import compare_losses

CPU = ["--device", "cpu"]


def broken(report: Report) -> None:
    report.add(samples_per_second=3.0)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


def absent(report: Report) -> None:
    raise NotRunError("deepspeed is not installed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_is_no_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_gpu_check(["--out", str(tmp_path / "out.json")]) == 0
    assert "no CUDA GPU was found" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_failed_part_keeps_its_figures_and_its_message(tmp_path: Path) -> None:
    assert run_part(Part("a", 1.0, broken), tmp_path / "a.json") == 1
    found = read_report(tmp_path / "a.json")
    assert (found["status"], found["figures"]) == ("failed", {"samples_per_second": 3.0})
    assert found["reason"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"
    assert run_part(Part("b", 1.0, absent), tmp_path / "b.json") == 0
    assert read_report(tmp_path / "b.json") == {
        "figures": {},
        "status": "not run",
        "reason": "deepspeed is not installed",
    }


def test_a_part_that_hangs_is_ended_and_one_whose_time_is_over_does_not_start() -> None:
    parts = {part.name: part for part in make_parts(tiny_scale(), Path())}
    began = time.perf_counter()
    hung = run_apart(Part("tiny", 0.3, parts["tiny"].check), "cpu", Path(), 100.0)
    assert time.perf_counter() - began < 5
    assert (hung["status"], hung["reason"]) == ("failed", "it took more than 0 seconds")
    late = run_apart(parts["tiny"], "cpu", Path(), 3.0)
    assert late["status"] == "not run"
    assert "were over" in late["reason"]


@pytest.mark.slow
def test_a_process_that_dies_leaves_what_it_said() -> None:
    dead = run_apart(Part("no such part", 60.0, absent), "cpu", Path(), 100.0)
    assert dead["status"] == "failed"
    assert "ended with 2" in dead["reason"]
    assert "there is no part 'no such part'" in dead["reason"]


def test_one_failure_is_the_exit_code_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {"tiny": {"status": "failed", "reason": "OutOfMemoryError", "figures": {}}}
    done = {"status": "done", "figures": {"step_seconds": 0.5}}
    monkeypatch.setattr(command, "run_apart", lambda part, *_: ends.get(part.name, done))
    out = tmp_path / "new" / "out.json"
    assert run_gpu_check([*CPU, "--out", str(out)]) == 1
    record = json.loads(out.read_text())
    assert record["parts"]["tiny"]["status"] == "failed"
    assert record["parts"]["fsdp"] == done
    assert {"hardware", "driver", "date", "commit", "modified", "versions", "device"} <= record.keys()
    assert "tiny: failed. OutOfMemoryError" in capsys.readouterr().out
    assert run_gpu_check([*CPU, "--only", "fsdp"]) == 0


def test_what_was_measured_is_on_the_disk_when_the_check_is_ended_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def end(part: Part, *_: object) -> dict[str, Any]:
        if part.name == "ddp":
            raise KeyboardInterrupt
        return {"status": "done", "figures": {"tflops": 2.0, "matmul_tflops": 8.0}}

    monkeypatch.setattr(command, "run_apart", end)
    out = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run_gpu_check([*CPU, "--out", str(out)])
    record = json.loads(out.read_text())
    assert list(record["parts"])[:3] == ["rates", "tiny", "vlmo-tiny"]
    assert record["parts"]["tiny"]["figures"]["utilisation_of_measured"] == 0.25
    assert "ddp" not in record["parts"]


def report_and_stay(file: Path) -> str:
    """Return a program that reports a figure as a part does, and goes on for a minute."""
    return (
        "import time\n"
        "from pathlib import Path\n"
        "from vle_lightning.gpu_check.report import Report\n"
        f"Report(Path({str(file)!r})).add(step_seconds=0.5)\n"
        "time.sleep(60)\n"
    )


def stays(name: str, device: str, file: Path, shared: Path) -> subprocess.Popen[str]:
    code = report_and_stay(file)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_figures_of_a_part_are_handed_on_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "start", stays)
    monkeypatch.setattr(apart, "LOOK", 0.1)
    found: list[dict[str, Any]] = []

    def follow(result: dict[str, Any]) -> None:
        found.append(result)
        raise KeyboardInterrupt  # as if somebody ended the check now

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run_apart(Part("a", 60.0, absent), "cpu", Path(), 100.0, follow)
    assert time.perf_counter() - began < 50  # the part did not go on to its end
    assert [result["figures"] for result in found] == [{"step_seconds": 0.5}]
    assert found[0]["reason"] == "the check was ended while this part ran"


@pytest.mark.slow
def test_a_check_that_is_killed_half_way_leaves_what_came_before(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = [*CPU, "--out", str(out), "--only", "rates", "tiny", "photos"]
    process = subprocess.Popen([sys.executable, "-m", "vle_lightning.gpu_check", *options], start_new_session=True)
    try:
        deadline = time.perf_counter() + 550
        while "photos" not in (json.loads(out.read_text())["parts"] if out.exists() else {}):
            assert process.poll() is None
            assert time.perf_counter() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    parts = json.loads(out.read_text())["parts"]
    assert [parts[name]["status"] for name in ("rates", "tiny", "photos")] == ["done", "done", "failed"]
    assert parts["tiny"]["figures"]["step_seconds"] > 0
    assert parts["photos"]["figures"]["settings"]["architecture"] == "tiny"
    assert parts["photos"]["reason"] == "the check was ended while this part ran"


def test_losses_that_differ_from_those_of_ddp_are_a_failure() -> None:
    def losses(*values: float) -> dict[str, Any]:
        return {"status": "done", "figures": {"losses": list(values)}}

    results = {"ddp": losses(2.0, 4.0), "fsdp": losses(2.0, 4.002), "deepspeed_2": losses(2.0, 4.02)}
    compare_losses(results)
    assert results["fsdp"]["status"] == "done"
    assert results["fsdp"]["figures"]["largest_relative_difference"] == pytest.approx(0.0005)
    assert results["deepspeed_2"]["status"] == "failed"
    assert results["deepspeed_2"]["reason"] == "the losses differ from ddp's by 5.0e-03, more than 1e-03"
    alone = {"fsdp": losses(1.0), "deepspeed_3": {"status": "not run", "figures": {}}}
    compare_losses(alone)
    assert alone["fsdp"] == losses(1.0)


def test_the_most_wanted_comes_first() -> None:
    parts = make_parts(Scale("cuda"), Path())
    names = [part.name for part in parts]
    assert names[:5] == ["rates", "vle-base", "vle-large", "meter-clip16-roberta", "vlmo-base"]
    assert names[5:8] == ["vle-base largest batch", "vle-large largest batch", "photos"]
    behind = [names.index(name) for name in ("vle-base compiled", "ddp", "deepspeed_3", "gpu tests")]
    assert behind == sorted(behind)
    assert sum(part.seconds for part in parts[:5]) < command.TOGETHER  # even where each takes all of its time
    assert command.TOGETHER < 8 * 60


def test_where_the_record_goes(tmp_path: Path) -> None:
    assert target(None, "cuda", "NVIDIA H200") == Path("experiments/hardware/nvidia_h200.json")
    assert target(None, "cpu", "CPU x86_64") is None
    with pytest.raises(UserError, match="--out: .* is a folder"):
        target(str(tmp_path), "cuda", "NVIDIA H200")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--only", "nothing"], "--only: there is no part 'nothing'; choose among rates, tiny,"), (["--what"], "--what")],
)
def test_a_wrong_command_line_is_one_sentence(arguments: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run_gpu_check([*CPU, *arguments])


def test_a_cpu_has_a_name_and_no_memory_of_its_own() -> None:
    assert str(describe(torch.device("cpu"))["hardware"]).startswith("CPU")
    assert peak_memory(torch.device("cpu")) == {}


@pytest.mark.slow
def test_all_parts_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "TOGETHER", 1500.0)
    out = tmp_path / "out.json"
    names = [part.name for part in make_parts(tiny_scale(), Path()) if "compiled" not in part.name]
    assert run_gpu_check([*CPU, "--out", str(out), "--only", *names]) == 0, out.read_text()
    parts = json.loads(out.read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(names, "done")
    assert len(parts["deepspeed_3"]["figures"]["losses"]) == 4
    assert parts["fsdp"]["figures"]["largest_relative_difference"] < 1e-3
    assert 0 <= parts["photos"]["figures"]["data_wait_share"] < 1
    assert parts["photos"]["figures"]["samples_per_second"] > 0
    assert parts["tiny largest batch"]["figures"]["best_batch"] in (8, 16)
    assert parts["vlmo-tiny"]["figures"]["settings"]["objectives"] == ["itc", "itm_hard", "mlm"]
    table = capsys.readouterr().out
    assert "## Hardware: CPU" in table
    assert "| tiny | done | 8 |" in table
