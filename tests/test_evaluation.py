"""What `fit` and `test` write of the test split: once, by the selected checkpoint, under its own name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vle_lightning.cli import main
from vle_lightning.tasks.pretrain import PretrainTask

EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "snli_ve" / "toy.yaml")
TINY = ("--model.architecture", "tiny", "--model.init", "null", "--data.workers", "0", "--trainer.accelerator", "cpu")
SHORT = ("--trainer.max_steps", "2", "--validate_every", "2", "--trainer.enable_progress_bar", "false")


@pytest.fixture(autouse=True)
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


@pytest.mark.slow
def test_scores_of_a_split_never_take_the_place_of_anothers(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", EXPERIMENT, *TINY, *SHORT, "--run_name", "tested"]) == 0
    folder = workplace / "checkpoints" / "tested"
    after_fit = json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "run.json").read_text())
    assert after_fit["test/accuracy"] == pytest.approx(
        sum(after_fit[f"test/accuracy_{name}"] * share for name, share in shares(workplace, "test").items())
    )
    assert record["test_split"] == "test"
    assert any(entry["path"].endswith("snli_ve/test/manifest.json") for entry in record["data"])
    command = ["test", "--config", EXPERIMENT, *TINY, "--run_name", "tested"]
    assert main([*command, "--data.test_split", "dev"]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {name: metrics[name] for name in after_fit} == after_fit
    assert metrics["test_dev/accuracy"] == pytest.approx(after_fit["val/accuracy"])
    assert main(command) == 0
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    tested = json.loads((folder / "run.json").read_text())["tested"]
    assert {name: (of["split"], of["checkpoint"]) for name, of in tested.items()} == {
        "test_dev": ("dev", "best.ckpt"),
        "test": ("test", "best.ckpt"),
    }
    assert "test_dev/accuracy" in capsys.readouterr().out
    assert main([*command, "--ckpt_path", "last"]) == 0
    again = json.loads((folder / "metrics.json").read_text())
    assert {name: again[name] for name in metrics} == metrics
    assert "test_last.ckpt/accuracy" in again
    assert main([*command, "--model.blind", "image"]) == 2
    assert "was trained with model.blind none, not image" in capsys.readouterr().err
    (workplace / "a_file").touch()
    plots = str(workplace / "a_file")
    assert main(["predict", "--config", EXPERIMENT, *TINY, "--run_name", "tested", "--plots", plots]) == 2
    assert "a_file is a file; name a folder" in capsys.readouterr().err


def test_a_missing_test_split_is_told_before_training(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--run_name", "untested", "--data.test_split", "nowhere"]
    assert main(["fit", "--config", EXPERIMENT, *TINY, *SHORT, *options]) == 2
    assert "snli_ve/nowhere" in capsys.readouterr().err
    assert not (workplace / "checkpoints" / "untested" / "best.ckpt").exists()


DUAL = str(Path(__file__).parents[1] / "experiments" / "dual_retrieval" / "vlmo_toy.yaml")
SMALL = ("--model.architecture", "vlmo-tiny", *TINY[4:], "--data.batch_size", "8", "--data.global_batch_size", "8")


def pretrained(name: str, *objectives: str) -> tuple[str, str]:
    PretrainTask("vlmo-tiny", dict.fromkeys(objectives, 1.0)).save_pretrained(name)
    return "--model.init", name


def test_ranking_again_by_an_untrained_head_is_refused_before_anything_runs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for init in (("--model.init", "null"), pretrained("contrast", "itc")):
        options = ("--run_name", "random", "--model.top_k", "4")
        assert main(["fit", "--config", DUAL, *SMALL, *SHORT, *init, *options]) == 2
        told = capsys.readouterr().err
        assert "model.top_k is 4, but these weights hold no trained head itm_score" in told
        assert told.count("\n") == 1
    assert not (workplace / "checkpoints" / "random" / "metrics.json").exists()


@pytest.mark.slow
def test_what_is_ranked_again_stands_beside_the_similarities(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, *objectives in (("dual", "itc", "itm_hard"), ("bare", "itc")):
        init = pretrained(f"{name}-pairs", *objectives)
        assert main(["fit", "--config", DUAL, *SMALL, *SHORT, *init, "--run_name", name]) == 0
    command = ["test", "--config", DUAL, *SMALL, "--model.top_k", "4", "--run_name"]
    capsys.readouterr()
    assert main([*command, "bare"]) == 2
    assert "best.ckpt: model.top_k is 4, but these weights hold no trained head" in capsys.readouterr().err
    before = json.loads((workplace / "checkpoints" / "dual" / "metrics.json").read_text())
    assert main([*command, "dual"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((workplace / "checkpoints" / "dual" / "metrics.json").read_text())
    for score in ("tr@1", "ir@1", "r@1"):
        assert metrics[f"test/{score}"] == before[f"test/{score}"]
        assert all(f"  test/{name} " in printed for name in (score, f"{score}_top4"))


def shares(workplace: Path, split: str) -> dict[str, float]:
    """Count the labels of the raw rows."""
    rows = (workplace / "data/toy/raw/snli_ve" / f"snli_ve_{split}.jsonl").read_text().splitlines()
    labels = [json.loads(row)["gold_label"] for row in rows]
    return {label: labels.count(label) / len(labels) for label in set(labels)}
