"""Gathering the scores of several runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.study import Run, gather, joint_scores

EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "vcr"


def rows(right: dict[str, bool], family: str = "colour") -> list[dict[str, object]]:
    return [{"id": name, "prediction": 2, "target": 2 if hit else 1, "family": family} for name, hit in right.items()]


def test_a_joint_score_counts_questions_that_all_parts_get_right() -> None:
    answers = rows({"a": True, "b": True, "c": False, "d": False})
    rationales = rows({"d": False, "c": True, "b": False, "a": True})  # in another order
    assert joint_scores("q2ar", [answers, rationales]) == {"q2ar": 0.25, "q2ar_colour": 0.25}


def test_a_joint_score_of_different_questions_is_refused() -> None:
    with pytest.raises(UserError, match="different questions"):
        joint_scores("q2ar", [rows({"a": True}), rows({"b": True})])


def test_questions_without_a_known_answer_are_left_out() -> None:
    hidden: list[dict[str, object]] = [{"id": "x", "prediction": 1, "target": None, "family": ""}]
    part = [*rows({"a": True}, family=""), *hidden]
    assert joint_scores("q2ar", [part, part]) == {"q2ar": 1.0}


def test_variants_get_their_own_names() -> None:
    answers, rationales = tuple(rows({"a": True, "b": False})), tuple(rows({"a": True, "b": True}))
    gathered = gather(
        [
            Run("q", "val", {"val/q2a": 0.5, "val/loss": 1.0, "ceiling/q2a": 1.0}, answers),
            Run("r", "val", {"val/qa2r": 1.0, "val/loss": 2.0, "ceiling/q2a": 1.0}, rationales),
            Run("q-blind", "blind", {"val/q2a": 0.25, "ceiling/q2a": 1.0}, answers),
        ]
    )
    assert gathered == {
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
