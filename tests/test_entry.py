"""The frame of the entry points: an unexpected error becomes one sentence and a file; empty variables are not set."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vle_lightning.entry import LAUNCHER, enter, settle_launcher

ROOT = Path(__file__).parents[1]
STARTED = [
    file
    for package in ("vle_lightning", "datamodules")
    for file in sorted((ROOT / package).rglob("*.py"))
    if '__name__ == "__main__"' in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), KeyError("x"), RecursionError(), MemoryError()])
def test_an_unexpected_error_is_one_sentence_that_names_a_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main", "fit", "--run_name", "a b"])
    assert enter("python -m vle_lightning", fail) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"error: python -m vle_lightning: unexpected {type(error).__name__}")
    (file,) = tmp_path.glob("vle-error-*.txt")
    assert str(file) in told
    report = file.read_text()
    assert "command: python -m vle_lightning fit --run_name 'a b'\n" in report
    assert "torch: " in report
    assert "Traceback (most recent call last)" in report
    assert "Traceback" not in told


def test_the_file_goes_elsewhere_where_the_working_directory_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert enter("python -m x", lambda: int("x")) == 70
    assert str(next(tmp_path.glob("vle-error-*.txt"))) in capsys.readouterr().err
    monkeypatch.setattr("tempfile.tempdir", str(gone))
    assert enter("python -m x", lambda: int("x")) == 70
    assert "the traceback above" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)


def test_exit_codes_pass_through() -> None:
    assert enter("python -m x", lambda: None) == 0
    assert enter("python -m x", lambda: 75) == 75
    with pytest.raises(SystemExit):
        enter("python -m x", lambda: sys.exit(2))


@pytest.mark.parametrize("file", STARTED, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_entry_point_has_the_frame(file: Path) -> None:
    last = ast.parse(file.read_text(encoding="utf-8")).body[-1]
    assert "enter('python -m " in ast.unparse(last)


@pytest.mark.parametrize("name", LAUNCHER)
def test_an_empty_variable_of_a_launcher_is_not_set(name: str) -> None:
    environment = {name: "", "HOME": ""}
    assert settle_launcher(environment) is None
    assert environment == {"HOME": ""}


def test_a_rank_that_is_no_number_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "first")
    assert enter("python -m vle_lightning", lambda: 0) == 2
    assert capsys.readouterr().err == (
        "error: environment: LOCAL_RANK is 'first'; it must be a whole number, or not be set\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["vle_lightning", "fit", "--config", "nowhere.yaml"],
        ["vle_lightning.parity", "nowhere"],
        ["datamodules.inspect", "nowhere"],
        ["vle_lightning.bench", "nowhere"],
        ["datamodules.bench", "--photos", "nowhere"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("value", ["", "first"])
def test_processes_start_with_odd_variables(arguments: list[str], value: str) -> None:
    environment = os.environ | dict.fromkeys(LAUNCHER, value)
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr or "datamodules.bench: " in done.stderr
