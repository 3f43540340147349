"""The page of results: the right number beside the right name, ours and published told apart, nothing dropped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from vle_lightning.cli import main
from vle_lightning.curves.record import read_file
from vle_lightning.errors import UserError
from vle_lightning.results.command import run_results
from vle_lightning.results.runs import read_published, read_runs

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published.json"
OTHERS = [
    {
        "task": "vqa",
        "system": "Them",
        "data": "VQAv2",
        "split": "test-dev",
        "scores": {"vqa_accuracy": 77.64},
        "source": "arXiv 1",
    }
]
RECORD = {
    "task": "vqa",
    "command": "python -m vle_lightning fit --config experiments/vqa/toy.yaml --run_root=/home/me/x --data.root a/b",
    "commit": "0123456789abcdef",
    "modified": True,
    "seed": 3,
    "steps": 1600,
    "seconds": 354.4,
    "rule": "max val/vqa_accuracy",
    "data": [
        {"path": "/home/me/data/toy/shards/vqav2/train/manifest.json", "sha256": "1"},
        {"path": "/home/me/data/toy/shards/vqav2/val/manifest.json", "sha256": "2"},
    ],
}


def make_run(root: Path, name: str, metrics: Mapping[str, object] | None, **record: Any) -> None:  # noqa: ANN401 (JSON)
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**RECORD, "run_name": name, **record}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def page(root: Path, *options: str) -> str:
    """Write the page of the runs in ``root``/runs and return it."""
    (root / "published.json").write_text(json.dumps(OTHERS))
    run_results(
        [
            *("--run_root", str(root / "runs"), "--out", str(root / "page" / "README.md")),
            *("--published", str(root / "published.json")),
            *options,
        ]
    )
    return (root / "page" / "README.md").read_text()


def rows(text: str, title: str) -> list[dict[str, str]]:
    """Return the table below a title, a dictionary a row; written apart from what writes it."""
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert all(len(row) == len(table[0]) for row in table)
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


VQA = "Visual question answering"


def test_curves_of_each_task_are_written_and_runs_without_any_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "vqa-toy", {"val/vqa_accuracy": 0.5})
    make_run(tmp_path / "runs", "nlvr2-toy", {"val/accuracy": 0.5}, task="nlvr2")
    folder = tmp_path / "runs" / "vqa-toy"
    (folder / "config.yaml").write_text("task: vqa\n")
    writer = SummaryWriter(str(folder))
    writer.add_scalar("val/vqa_accuracy", 0.5, 99)
    writer.close()
    text = page(tmp_path, "--curves", str(tmp_path / "curves"))
    assert {file.name for file in (tmp_path / "curves").iterdir()} == {"vqa.json", "vqa.png"}
    (run,) = read_file(tmp_path / "curves" / "vqa.json")
    assert (run.run, run.scalars["val/vqa_accuracy"].values) == ("vqa-toy", (0.5,))
    assert "no curves of nlvr2-toy: .../nlvr2-toy is no run folder" in text


def test_a_run_stands_with_its_own_numbers_and_a_published_one_with_its_source(tmp_path: Path) -> None:
    metrics = {"val/vqa_accuracy": 0.8261, "val/loss": 1.6, "floor/vqa_accuracy": 0.335, "ceiling/vqa_accuracy": 1.0}
    make_run(tmp_path / "runs", "vqa-toy", metrics)
    make_run(tmp_path / "runs", "vqa-toy-blind", {"val/vqa_accuracy": 0.345})
    make_run(tmp_path / "runs", "vqa-toy-blind_text", {"val/vqa_accuracy": 0.211})
    ours, theirs = rows(page(tmp_path), VQA)
    assert ours == {
        "whose": "ours",
        "run or system": "vqa-toy",
        "data": "toy: vqav2",
        "split": "val",
        "score": "vqa_accuracy",
        "%": "**82.6**",
        "without the picture": "34.5",
        "without the text": "21.1",
        "floor": "33.5",
        "ceiling": "100.0",
        "steps": "1600",
        "minutes": "5.9",
        "seed": "3",
        "commit": "0123456 (modified)",
        "selected by": "max val/vqa_accuracy",
        "command or source": "`python -m vle_lightning fit --config experiments/vqa/toy.yaml --run_root=.../x "
        "--data.root a/b`",
    }
    assert (theirs["whose"], theirs["run or system"], theirs["%"]) == ("published", "Them", "77.64")
    assert (theirs["split"], theirs["commit"], theirs["command or source"]) == ("test-dev", "", "arXiv 1")


def test_the_test_split_is_reported_where_there_is_one_and_blind_scores_are_of_the_same_split(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "vqa-a", {"val/vqa_accuracy": 0.9, "test/vqa_accuracy": 0.7})
    make_run(tmp_path / "runs", "vqa-a-blind", {"val/vqa_accuracy": 0.5, "test/vqa_accuracy": 0.4})
    make_run(tmp_path / "runs", "vqa-b", {"val/vqa_accuracy": 0.9, "test/vqa_accuracy": 0.6})
    make_run(tmp_path / "runs", "vqa-b-blind", {"val/vqa_accuracy": 0.5})
    found = rows(page(tmp_path), VQA)[:2]
    assert [(row["split"], row["%"], row["without the picture"]) for row in found] == [
        ("test", "**70.0**", "40.0"),
        ("test", "**60.0**", ""),
    ]


@pytest.mark.parametrize(("change", "mark"), [({"steps": 9}, " †"), ({"data": []}, " †"), ({"seed": 9}, "")])
def test_a_blind_run_under_other_conditions_is_marked(tmp_path: Path, change: dict[str, object], mark: str) -> None:
    make_run(tmp_path / "runs", "vqa-a", {"val/vqa_accuracy": 0.9})
    make_run(tmp_path / "runs", "vqa-a-blind", {"val/vqa_accuracy": 0.5}, **change)
    assert rows(page(tmp_path), VQA)[0]["without the picture"] == f"50.0{mark}"


def test_a_blind_run_without_the_run_it_belongs_to_has_a_row_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "vqa-a-blind", {"val/vqa_accuracy": 0.5})
    assert rows(page(tmp_path), VQA)[0]["run or system"] == "vqa-a-blind"


def test_a_study_adds_what_its_runs_do_not_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs", "vcr-toy_q2a", {"val/q2a": 0.75}, task="vcr")
    make_run(tmp_path / "runs", "vcr-toy_qa2r", {"val/qa2r": 0.9}, task="vcr")
    (tmp_path / "runs" / "vcr-toy").mkdir()
    gathered = {"val/q2a": 0.75, "val/qa2r": 0.9, "val/q2ar": 0.7, "blind/q2ar": 0.06, "val/vcr-toy_q2a/loss": 1.0}
    (tmp_path / "runs" / "vcr-toy" / "metrics.json").write_text(json.dumps(gathered))
    table = rows(page(tmp_path), "Visual commonsense reasoning (VCR)")
    assert [(row["run or system"], row["score"], row["%"]) for row in table] == [
        ("vcr-toy", "q2ar", "**70.0**"),
        ("vcr-toy_q2a", "q2a", "**75.0**"),
        ("vcr-toy_qa2r", "qa2r", "**90.0**"),
    ]
    assert table[0]["without the picture"] == "6.0"
    assert table[0]["command or source"] == "the study of vcr-toy_q2a, vcr-toy_qa2r"
    assert "vcr-toy has no run.json" in capsys.readouterr().out


def test_a_shortlist_and_folds_stay_in_the_name_of_a_score(tmp_path: Path) -> None:
    metrics = {"val/tr@1_5folds_top16": 0.5, "val/tr@1": 0.6, "val/tr@10": 0.9, "val/ir@1": 0.4, "val/r@1": 0.5}
    make_run(tmp_path / "runs", "retrieval-toy", metrics, task="retrieval")
    table = rows(page(tmp_path), "Image-text retrieval")
    assert [(row["score"], row["%"]) for row in table] == [
        ("tr@1", "**60.0**"),
        ("tr@1_5folds_top16", "**50.0**"),
        ("ir@1", "**40.0**"),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "metrics.json is not JSON"),
        ("[1]", "metrics.json holds no names and values"),
        ('{"val/vqa_accuracy": "high"}', "metrics.json: val/vqa_accuracy is not a number"),
        ('{"val/vqa_accuracy": NaN}', "metrics.json: val/vqa_accuracy is not a number"),
        (None, "no metrics.json, its run has not ended"),
    ],
)
def test_a_broken_run_is_named_in_the_output_and_on_the_page(
    tmp_path: Path, content: str | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs", "vqa-good", {"val/vqa_accuracy": 0.5})
    make_run(tmp_path / "runs", "vqa-broken", None)
    if content is not None:
        (tmp_path / "runs" / "vqa-broken" / "metrics.json").write_text(content)
    text = page(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vqa-broken")]
    assert told in line
    assert f"- {line}" in text.split("## Not complete")[1]
    assert [row["run or system"] for row in rows(text, VQA)] == ["vqa-good", "Them"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": None}, "run.json: data must list manifests"),
        ({"data": 5}, "run.json: data must list manifests"),
        ({"data": [{"path": "manifest.json"}]}, "run.json: data must list manifests"),
        ({"commit": 5}, "run.json: commit must be a text"),
    ],
)
def test_a_broken_record_is_named_and_stops_no_other_run(
    tmp_path: Path, change: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "runs", "vqa-good", {"val/vqa_accuracy": 0.5})
    make_run(tmp_path / "runs", "vqa-broken", {"val/vqa_accuracy": 0.6})
    file = tmp_path / "runs" / "vqa-broken" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    text = page(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vqa-broken")]
    assert told in line
    assert [row["run or system"] for row in rows(text, VQA)] == ["vqa-good", "Them"]


def test_scores_without_any_task_are_named(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "metrics.json").write_text('{"val/accuracy": 0.5}')
    (tmp_path / "runs" / "notes").mkdir()  # no run at all
    runs, problems = read_runs([tmp_path / "runs"])
    assert runs == []
    assert len(problems) == 1
    assert "mine is left out: neither run.json nor its name says its task" in problems[0]


def test_the_page_says_what_made_it_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("vqa-b", "vqa-a"):
        make_run(tmp_path / "runs", name, {"val/vqa_accuracy": 0.5}, command="x | /home/me/a.py")
    text = page(tmp_path)
    assert text == page(tmp_path)
    assert "generated by `python -m vle_lightning results`" in text.split("\n## ")[0]
    assert "/home/" not in text
    assert "x \\| .../a.py" in text


def test_runs_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    for root in ("one", "two"):
        make_run(tmp_path / root, "vqa-a", {"val/vqa_accuracy": 0.5})
    with pytest.raises(UserError, match="several folders have a run vqa-a"):
        read_runs([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize(
    "content", ["{", '[{"task": "vqa"}]', json.dumps([{**OTHERS[0], "source": ""}]), '[{"task": "chess"}]']
)
def test_published_numbers_need_a_source(tmp_path: Path, content: str) -> None:
    (tmp_path / "published.json").write_text(content)
    with pytest.raises(UserError, match="--published"):
        read_published(tmp_path / "published.json")


def test_a_missing_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--run_root", str(tmp_path / "none"), "--published", str(PUBLISHED)]
    assert main(["results", *options]) == 2
    assert "--run_root: there is no folder" in capsys.readouterr().err


def test_the_shipped_numbers_are_those_that_the_issue_names() -> None:
    published = {
        (entry.system, entry.task, score): value
        for entry in read_published(PUBLISHED)
        if entry.system.startswith("VLE")
        for score, value in entry.scores.items()
    }
    assert published == {
        ("VLE-base", "vqa", "vqa_accuracy"): 77.6,
        ("VLE-base", "vcr", "q2a"): 79.9,
        ("VLE-base", "vcr", "qa2r"): 83.7,
        ("VLE-large", "vqa", "vqa_accuracy"): 79.3,
        ("VLE-large", "vcr", "q2a"): 84.3,
        ("VLE-large", "vcr", "qa2r"): 87.5,
    }
