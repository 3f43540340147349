"""Model cards: the metadata is what huggingface_hub parses, scores are those of the run, nobody's text is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from vle_lightning.hub.card import LICENCES, UNKNOWN, Model, is_by_hand, write_card
from vle_lightning.hub.manifest import read_manifest
from vle_lightning.hub.run_facts import Origin, find_origin

METRICS = {"val/loss": 1.5, "val/vqa_accuracy": 0.8215494751930237, "floor/vqa_accuracy": 0.33515, "val/other": None}
RECORD = {
    "task": "vqa",
    "steps": 40,
    "command": "python -m vle_lightning fit --config /home/me/secret/vqa.yaml",
    "data": [{"path": "data/toy/shards/vqav2/train/manifest.json", "sha256": "0"}],
}


def write_run(folder: Path, init: str | None = None, **model: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"task": "vqa", "model": {"init": init, **model}, "data": {}}))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "run.json").write_text(json.dumps(RECORD))
    (folder / "step_1.ckpt").touch()
    (folder / "step_2.ckpt").touch()
    (folder / "best.ckpt").symlink_to("step_2.ckpt")
    return folder


def model_of(origin: Origin, **options: object) -> Model:
    given = {"name": "me/toy", "task": "vqa", "backbone": "mome", "layout": "own", "parameters": 1234, **options}
    return Model(heads=("vqa_classifier",), answers=19, origin=origin, **given)  # type: ignore[arg-type]


def test_the_scores_of_the_card_are_those_of_the_run(tmp_path: Path) -> None:
    write_card(tmp_path, model_of(find_origin(write_run(tmp_path / "runs" / "vqa-toy"))))
    card = ModelCard.load(tmp_path / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("vqa_accuracy", METRICS["val/vqa_accuracy"])
    assert (result.dataset_name, result.dataset_split) == ("toy: vqav2", "val")
    assert card.data.to_dict() | {"model-index": None, "tags": None} == {
        "license": UNKNOWN, "library_name": "vle-lightning", "pipeline_tag": "visual-question-answering",
        "datasets": ["toy-vqav2"], "model-index": None, "tags": None,
    }  # fmt: skip
    assert "| vqa_accuracy | val | 0.8215 | 0.3352 |  |" in card.text
    assert 'model = pipeline("vqa", "me/toy")' in card.text
    assert "/home/me/secret" not in card.text


@pytest.mark.parametrize(
    ("checkpoint", "known"), [("best.ckpt", True), ("step_2.ckpt", True), ("step_1.ckpt", False), ("", True)]
)
def test_scores_are_of_the_checkpoint_that_they_were_measured_of(tmp_path: Path, checkpoint: str, known: bool) -> None:
    run = write_run(tmp_path / "runs" / "vqa-toy")
    write_card(tmp_path, model_of(find_origin(run / checkpoint)))
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.eval_results is not None) is known
    assert ("No scores are known of this checkpoint" in card.text) is not known
    assert "steps: 40" in card.text


def test_base_models_are_found_over_runs_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "checkpoints" / "pretrain", "hfl/vle-base@main")
    write_run(tmp_path / "checkpoints" / "vqa", "checkpoints/pretrain/best.ckpt", text_init="some/tower")
    write_run(
        tmp_path / "checkpoints" / "towers", None, text_init="microsoft/deberta", image_init="open_clip:ViT/laion"
    )
    write_run(tmp_path / "checkpoints" / "gone", "checkpoints/deleted")
    assert find_origin("checkpoints/vqa").bases == ("hfl/vle-base",)
    assert find_origin("checkpoints/towers").bases == ("microsoft/deberta",)
    assert find_origin("checkpoints/gone").bases == ()
    assert find_origin("hfl/vle-base").bases == ("hfl/vle-base",)
    write_card(tmp_path, model_of(find_origin("checkpoints/vqa")))
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.license) == (["hfl/vle-base"], "apache-2.0")
    write_card(tmp_path, model_of(find_origin("checkpoints/vqa"), license="mit"))
    assert ModelCard.load(tmp_path / "README.md").data.license == "mit"


def test_licences_are_those_of_the_manifest() -> None:
    manifest = Path(__file__).parents[2] / "checkpoints" / "manifest.yaml"
    for start, licence in LICENCES.items():
        listed = {entry.licence.lower() for entry in read_manifest(manifest) if entry.source.startswith(start)}
        assert listed == {licence}


def test_a_card_without_a_run_says_so(tmp_path: Path) -> None:
    write_card(tmp_path, model_of(Origin(), tokenizer=False))
    text = ModelCard.load(tmp_path / "README.md").text
    assert "No scores are known" in text
    assert "not recorded" in text
    assert 'pipeline("vqa", "me/toy", tokenizer="TOKENIZER")' in text


def test_a_card_that_was_changed_is_by_hand(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert not is_by_hand(card)
    write_card(tmp_path, model_of(Origin()))
    assert not is_by_hand(card)
    card.write_text(card.read_text().replace("## Limits", "## My limits"))
    assert is_by_hand(card)
    card.write_text("# Mine\n")
    assert is_by_hand(card)
