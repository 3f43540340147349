"""Running a study: what is started, skipped, gone on with, and what a failure stops."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import IO

import pytest
import torch

from datamodules.sampler import accumulation
from tests.ablation.studies import ROOT, finish, make_full_study, make_study, write_study
from vle_lightning.ablation import running
from vle_lightning.ablation.command import run_ablation
from vle_lightning.ablation.running import Job, begin, jobs_of, keep_encoders, reason, run_jobs
from vle_lightning.cli import main
from vle_lightning.curves.record import read_file
from vle_lightning.errors import Interrupted
from vle_lightning.experiment import read_settings
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.hub.pretrained import from_pretrained

FROM_ENCODERS = "      rate: {encoders_from: baseline, pretrain: {model: {optim: {lr: 1.0e-4}}}}"


class FakeRuns:
    """Stands for the subprocesses: each ends at once, with its records or with an error."""

    def __init__(self, jobs: list[Job], failing: tuple[str, ...] = ()) -> None:
        self.jobs, self.failing = {job.name: job for job in jobs}, failing
        self.commands: dict[str, list[str]] = {}

    def __call__(self, command: list[str], stdout: IO[bytes], **_: object) -> subprocess.CompletedProcess[bytes]:
        name = command[command.index("--run_name") + 1]
        assert name not in self.commands
        self.commands[name] = command
        stdout.write(b"error: it is broken\n")
        if name not in self.failing:
            finish(self.jobs[name])
        done = subprocess.CompletedProcess[bytes](command, 2 if name in self.failing else 0)
        done.poll = lambda: done.returncode  # type: ignore[attr-defined]
        return done


def fake(monkeypatch: pytest.MonkeyPatch, jobs: list[Job], failing: tuple[str, ...] = ()) -> FakeRuns:
    runs = FakeRuns(jobs, failing)
    monkeypatch.setattr(subprocess, "Popen", runs)
    monkeypatch.setattr(running, "POLL", 0.0)
    return runs


def all_jobs(folder: Path, more: str = "      mlm: {}") -> list[Job]:
    study = make_study(folder, more)
    return jobs_of(study, list(study.rows.values()), folder / "runs")


def test_each_row_is_pretrained_and_then_fine_tuned(tmp_path: Path) -> None:
    jobs = all_jobs(tmp_path)
    assert [job.name for job in jobs[:4]] == [
        "ablation-baseline-0-pretrain",
        "ablation-baseline-0-finetune",
        "ablation-baseline-1-pretrain",
        "ablation-baseline-1-finetune",
    ]
    assert jobs[3].options["model"]["init"] == str(tmp_path / "runs" / "ablation-baseline-1-pretrain" / "best.ckpt")
    assert jobs[3].options["seed_everything"] == 1
    assert len(jobs) == 8


def test_nothing_is_trained_twice_and_a_row_may_have_no_pretraining(tmp_path: Path) -> None:
    more = """      tuned: {finetune: {model: {label_smoothing: 0.1}}}
      scratch: {finetune: {model: {init: null}}}"""
    study = make_full_study(tmp_path, more)
    rows = [study.rows[name] for name in ("tuned", "scratch")]
    jobs = {job.name.removeprefix("ablation-"): job for job in jobs_of(study, rows, tmp_path)}
    assert list(jobs) == [
        *("baseline-0-pretrain", "tuned-0-finetune", "baseline-1-pretrain", "tuned-1-finetune"),
        *("scratch-0-finetune", "scratch-1-finetune"),
    ]
    assert jobs["tuned-1-finetune"].after == jobs["baseline-1-pretrain"]
    assert jobs["scratch-1-finetune"].after is None
    assert jobs["scratch-1-finetune"].options["model"]["init"] is None
    one = jobs_of(study, rows, tmp_path, (1,))
    assert {job.seed for job in one} == {1}
    assert len(one) == 3


def test_finished_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = all_jobs(tmp_path)
    finish(jobs[0])
    runs = fake(monkeypatch, jobs)
    assert run_jobs(jobs, 3) == []
    assert set(runs.commands) == {job.name for job in jobs[1:]}
    runs.commands.clear()
    assert run_jobs(jobs, 3) == []
    assert not runs.commands


def test_a_run_of_other_settings_is_set_aside_and_with_it_what_started_from_it(tmp_path: Path) -> None:
    before = all_jobs(tmp_path, "      mlm: {pretrain: {model: {objectives: {mlm: 1.0}}}}")[-2:]
    for job in before:
        finish(job)
    assert all(job.is_finished for job in before)
    after = all_jobs(tmp_path, "      mlm: {pretrain: {model: {objectives: {itm: 1.0}}}}")[-2:]
    assert before[1].options == after[1].options
    assert not any(job.is_finished for job in after)


def test_an_interrupted_run_goes_on_and_a_changed_one_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = all_jobs(tmp_path)
    runs = fake(monkeypatch, jobs, failing=(jobs[0].name,))
    begin(jobs[0], 1)
    assert "--ckpt_path" not in runs.commands.pop(jobs[0].name)
    begin(jobs[0], 1)
    command = runs.commands.pop(jobs[0].name)
    assert command[command.index("--ckpt_path") + 1] == "auto"
    finish(jobs[0])
    (changed,) = [job for job in all_jobs(tmp_path) if job.name == jobs[0].name]
    changed.settings.write_text("# of another study\n")
    begin(changed, 1)
    assert "--ckpt_path" not in runs.commands[changed.name]
    assert (tmp_path / "runs" / f"{changed.name}.1" / "run.json").exists()


def test_a_failing_row_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = all_jobs(tmp_path)
    runs = fake(monkeypatch, jobs, failing=("ablation-merged-0-pretrain",))
    assert run_jobs(jobs, 2) == ["ablation-merged-0-pretrain", "ablation-merged-0-finetune"]
    assert "ablation-merged-0-finetune" not in runs.commands
    assert "ablation-mlm-0-finetune" in runs.commands
    assert "ablation-merged-0-pretrain: failed: error: it is broken" in capsys.readouterr().out


def test_a_study_that_is_stopped_writes_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(jobs: list[Job], parallel: int) -> list[str]:
        del parallel
        for job in jobs[:2]:  # both stages of the baseline's first seed
            finish(job, vqa_accuracy=0.5)
        raise Interrupted("stopped")

    monkeypatch.setattr("vle_lightning.ablation.command.run_jobs", stop)
    monkeypatch.setattr("vle_lightning.ablation.command.check_row", lambda *_: None)  # takes seconds, tested below
    places = ["--out", str(tmp_path / "page.md"), "--run_root", str(tmp_path / "runs")]
    with pytest.raises(Interrupted):
        run_ablation([str(write_study(tmp_path, "      mlm: {}")), *places], read_settings, accumulation)
    assert "(1 of 2 seeds)" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "page.png").exists()


def test_a_killed_run_is_said_to_go_on(tmp_path: Path) -> None:
    killed = subprocess.CompletedProcess[bytes]([], -9)
    assert reason(killed, tmp_path / "none.log") == "it was killed (SIGKILL); the same command goes on with it"  # type: ignore[arg-type]


def test_fresh_fusions_start_from_the_encoders_of_another_row(tmp_path: Path) -> None:
    study = make_study(tmp_path, FROM_ENCODERS)
    jobs = jobs_of(study, [study.rows["rate"]], tmp_path / "runs")
    source, rate, _ = jobs
    assert source.name == "ablation-baseline-0-pretrain"
    model = read_architecture(source.options["model"]["architecture"]).build()
    source.folder.path.mkdir(parents=True)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    described = {"architecture": source.options["model"]["architecture"]}
    torch.save({"state_dict": state, **described}, source.folder.best)
    rate.settings.parent.mkdir()
    keep_encoders(rate)
    assert rate.start is not None
    assert rate.options["model"]["init"] == str(rate.start)
    kept = torch.load(rate.start, weights_only=True)["state_dict"]
    assert kept.keys() == state.keys()
    same = {key for key in state if torch.equal(kept[key], state[key])}
    encoders = {key for key in state if key.startswith(("model.text.", "model.image."))}
    assert encoders <= same
    weights = {key for key in state if state[key].dim() > 1}
    assert not same & (weights - encoders)


@pytest.mark.parametrize(
    ("more", "rows", "told"),
    [
        (
            "      x: {pretrain: {model: {objectivs: {mlm: 1.0}}}}",
            [],
            "row x, pretrain: there is no option objectivs",
        ),
        ("      x: {pretrain: {model: {objectives: {mmm: 1.0}}}}", [], "row x, pretrain: model.objectives: no obj"),
        ("      x: {both: {model: {architecture: {fusion: {kind: z}}}}}", [], "row x, pretrain: model.architecture"),
        ("      x: {}", ["--rows", "y"], "has no row y; it has baseline, merged, x"),
        ("      x: {}", ["--parallel", "0"], "--parallel is 0"),
        ("      x: {}", ["--scale", "huge"], "there is no preset 'huge'"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: str,
    rows: list[str],
    told: str,
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    arguments = [*rows, "--out", str(tmp_path / "README.md"), "--run_root", str(tmp_path / "runs")]
    assert main(["ablation", str(write_study(tmp_path, more)), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_study_runs_goes_on_and_is_not_run_again(
    tmp_path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    study = write_study(tmp_path, FROM_ENCODERS, "[0]")
    answers = len(json.loads((workplace / "data/toy/shards/answers.json").read_text()))
    tiny = "model: {architecture: tiny"
    study.write_text(study.read_text().replace(f"{tiny}}}", f"{tiny}, answers: {answers}}}"))
    study.write_text(f"curves: {tmp_path / 'curves'}\n{study.read_text()}")
    out, runs = tmp_path / "README.md", tmp_path / "runs"
    command = ["ablation", str(study), "--out", str(out), "--run_root", str(runs), "--parallel", "2"]
    assert main([*command, "--rows", "rate"]) == 0
    rows = out.read_text()
    assert "| merged | merged attention | not run |" in rows
    cells = next(line for line in rows.splitlines() if line.startswith("| rate")).split("|")
    assert all(cell.strip() for cell in cells[1:-1])  # parameters, FLOPs, seconds and scores
    assert {run.group for run in read_file(tmp_path / "README.curves.json")} == {"baseline", "rate"}
    record = runs / "ablation-rate-0-finetune" / "run.json"
    began = record.stat().st_mtime_ns
    (runs / "ablation-rate-0-finetune" / "metrics.json").unlink()  # as if it had ended a moment earlier
    assert main([*command, "--rows", "rate"]) == 0
    assert "3 runs, 2 of them finished" in capfd.readouterr().out
    assert record.stat().st_mtime_ns > began
    assert not (runs / "ablation-rate-0-finetune.1").exists()  # it went on
    began = record.stat().st_mtime_ns
    assert main([*command, "--rows", "rate"]) == 0
    assert record.stat().st_mtime_ns == began
    assert json.loads(record.read_text())["steps"] == 2
    report = from_pretrained(runs / "ablation-rate-0-pretrain" / "best.ckpt")
    assert report[0].width == 32
