"""Gathering the scores of several runs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.study import JOINTS, Run, gather, join, join_runs, joint_scores

EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "vcr"
(Q2AR,) = JOINTS


def rows(right: dict[str, bool], family: str = "colour") -> list[dict[str, object]]:
    return [
        {"id": name, "question_id": f"val-{name}", "prediction": 2, "target": 2 if hit else 1, "family": family}
        for name, hit in right.items()
    ]


def test_a_joint_score_counts_questions_that_all_parts_get_right() -> None:
    answers = rows({"a": True, "b": True, "c": False, "d": False})
    rationales = rows({"d": False, "c": True, "b": False, "a": True})  # in another order
    questions = join(Q2AR, [answers, rationales])
    assert questions[0] == {
        "id": "a",
        "question_id": "val-a",
        "family": "colour",
        "q2a": True,
        "qa2r": True,
        "q2ar": True,
    }
    assert [(row["id"], row["q2ar"]) for row in questions] == [("a", True), ("b", False), ("c", False), ("d", False)]
    assert joint_scores("q2ar", questions) == {"q2ar": 0.25, "q2ar_colour": 0.25}


def test_a_joint_score_of_different_questions_is_refused() -> None:
    with pytest.raises(UserError, match="different questions"):
        join(Q2AR, [rows({"a": True}), rows({"b": True})])


def test_questions_without_a_known_answer_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    hidden: list[dict[str, object]] = [{"id": "x", "prediction": 1, "target": None, "family": ""}]
    part = [*rows({"a": True}, family=""), *hidden]
    assert joint_scores("q2ar", join(Q2AR, [part, part])) == {"q2ar": 1.0}
    assert capsys.readouterr().out == ""
    join(Q2AR, [part, [*part, *rows({"b": True})]])
    assert capsys.readouterr().out == "q2ar: 1 questions that not all runs could use are left out: ['b']\n"


def test_variants_get_their_own_names() -> None:
    answers, rationales = tuple(rows({"a": True, "b": False})), tuple(rows({"a": True, "b": True}))
    runs = [
        Run("q", "val", {"val/q2a": 0.5, "test/q2a": 0.6, "val/loss": 1.0, "ceiling/q2a": 1.0}, answers),
        Run("r", "val", {"val/qa2r": 1.0, "val/loss": 2.0, "ceiling/q2a": 1.0}, rationales),
        Run("q-blind", "blind", {"val/q2a": 0.25, "test/q2a": 0.3, "ceiling/q2a": 1.0}, answers),
        Run("q-blind-text", "blind_text", {"val/q2a": 0.35, "test/q2a": 0.4, "ceiling/q2a": 1.0}, answers),
    ]
    assert gather(runs, join_runs(runs)) == {
        "test/q2a": 0.6,
        "blind_test/q2a": 0.3,
        "blind_text/q2a": 0.35,
        "blind_text_test/q2a": 0.4,
        "val/q2a": 0.5,
        "val/qa2r": 1.0,
        "val/q2ar": 0.5,
        "val/q2ar_colour": 0.5,
        "val/q/loss": 1.0,
        "val/r/loss": 2.0,
        "blind/q2a": 0.25,
        "ceiling/q2a": 1.0,
    }


def test_a_run_name_for_all_runs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(EXPERIMENTS / "toy_q2a.yaml"), "--out", "x", "--run_name", "one"]) == 2
    assert "--run_name" in capsys.readouterr().err


def test_a_study_runs_the_variants_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def fit(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        mode, variant = re.fullmatch(r"vcr-toy_(q2a|qa2r)(.*)", command[command.index("--run_name") + 1]).groups()  # type: ignore[union-attr]
        folder = tmp_path / f"vcr-toy_{mode}{variant}"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({f"val/{mode}": 0.5, f"test/{mode}": 0.25}))
        (folder / "predictions.json").write_text(json.dumps(rows({"a": mode == "q2a", "b": True})))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fit)
    toys = [str(EXPERIMENTS / f"toy_{mode}.yaml") for mode in ("q2a", "qa2r")]
    out = tmp_path / "out"
    assert main(["study", *toys, "--blind", "--blind-text", "--run_root", str(tmp_path), "--out", str(out)]) == 0
    withheld = [command[command.index("--model.blind") + 1] for command in commands[2:]]
    assert withheld == ["image", "image", "text", "text"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert {name: metrics[name] for name in ("val/q2ar", "blind/q2ar", "blind_text/q2ar", "blind_text_test/qa2r")} == {
        "val/q2ar": 0.5,
        "blind/q2ar": 0.5,
        "blind_text/q2ar": 0.5,
        "blind_text_test/qa2r": 0.25,
    }
    assert [row["q2ar"] for row in json.loads((out / "q2ar.json").read_text())] == [False, True]
    assert (out / "blind_q2ar.json").exists()
    assert (out / "blind_text_q2ar.json").exists()


@pytest.mark.slow
def test_a_study_runs_all_variants(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--trainer.max_steps", "2", "--validate_every", "2", "--model.architecture", "tiny"]
    toys = [str(EXPERIMENTS / f"toy_{mode}.yaml") for mode in ("q2a", "qa2r")]
    begin = ["--scratch", "--blind", "--run_root", "runs", "--out", "runs/vcr-toy", "--model.init", "null"]
    assert main(["study", *toys, *begin, *options]) == 0
    gathered = json.loads((workplace / "runs" / "vcr-toy" / "metrics.json").read_text())
    expected = {"val/q2a", "val/qa2r", "val/q2ar", "blind/q2a", "blind/qa2r", "blind/q2ar", "scratch/q2a"}
    assert expected | {"ceiling/q2a", "floor/q2a"} <= gathered.keys()
