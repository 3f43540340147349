"""VCR's leaderboard file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vle_lightning.cli import main

UNIFORM = [0.25] * 4
Row = dict[str, object]


def write(folder: Path, rows: list[Row]) -> str:
    folder.mkdir()
    (folder / "predictions.json").write_text(json.dumps(rows))
    return str(folder)


def row(question: str, probabilities: object) -> Row:
    return {"id": f"vcr/{question}", "question_id": question, "probabilities": probabilities}


def test_the_file_has_answers_and_rationales_given_each(tmp_path: Path) -> None:
    q2a = write(tmp_path / "q2a", [row("test-10", UNIFORM), row("test-9", [0.1, 0.2, 0.3, 0.4])])
    blocks = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.700001]]
    qa2r = write(tmp_path / "qa2r", [row("test-9", blocks), row("test-10", [UNIFORM] * 4)])
    out = tmp_path / "out" / "vcr.csv"
    assert main(["vcr-leaderboard", q2a, f"{qa2r}/predictions.json", "--out", str(out)]) == 0
    header, first, second = csv.reader(out.read_text().splitlines())
    assert header[:6] == ["annot_id", "answer_0", "answer_1", "answer_2", "answer_3", "rationale_conditioned_on_a0_0"]
    assert header[6:9] + header[-1:] == [
        "rationale_conditioned_on_a0_1",
        "rationale_conditioned_on_a0_2",
        "rationale_conditioned_on_a0_3",
        "rationale_conditioned_on_a3_3",
    ]
    assert len(header) == 21
    assert (first[0], second[0]) == ("test-9", "test-10")
    shares = [float(value) for value in first[1:]]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, *(share for block in blocks for share in block)], abs=1e-6)
    assert [sum(shares[start : start + 4]) for start in range(0, 20, 4)] == pytest.approx([1.0] * 5, abs=1e-12)


@pytest.mark.parametrize(
    ("answers", "rationales", "told"),
    [
        ([row("a", UNIFORM)], [row("b", [UNIFORM] * 4)], "1 questions (b) are missing in the predictions of Q->A"),
        ([row(q, UNIFORM) for q in "abcdefg"], [], "7 questions (a, b, c, d, e, ...) are missing in the predictions"),
        ([row("a", UNIFORM)] * 2, [row("a", [UNIFORM] * 4)], "q2a/predictions.json: 1 questions (a) come twice"),
        ([row("a", UNIFORM)], [row("a", UNIFORM)], "question a: the probabilities of rationales given each answer"),
        ([row("a", [UNIFORM] * 4)], [row("a", [UNIFORM] * 4)], "question a: the probabilities of answers alone"),
        ([row("a", [0.5] * 4)], [row("a", [UNIFORM] * 4)], "question a: [0.5, 0.5, 0.5, 0.5] are not 4 probabilities"),
        ([row("a", [1.0, None, 0, 0])], [], "are not 4 probabilities"),
        ([{"id": "a", "answer": "yes"}], [], "is this a run of VCR?"),
    ],
)
def test_what_does_not_fit_names_the_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Row], rationales: list[Row], told: str
) -> None:
    runs = write(tmp_path / "q2a", answers), write(tmp_path / "qa2r", rationales)
    assert main(["vcr-leaderboard", *runs, "--out", str(tmp_path / "vcr.csv")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "vcr.csv").exists()


def test_missing_and_broken_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "predictions.json"
    assert main(["vcr-leaderboard", str(broken), str(broken), "--out", str(tmp_path / "vcr.csv")]) == 2
    assert "python -m vle_lightning predict" in capsys.readouterr().err
    broken.write_text("[")
    assert main(["vcr-leaderboard", str(broken), str(broken), "--out", str(tmp_path / "vcr.csv")]) == 2
    assert "is not JSON" in capsys.readouterr().err
    assert main(["vcr-leaderboard", str(broken), str(broken), "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
