"""METER's layout holds what METER's code computes alike, and refuses the rest in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.factories import dual, of_kind
from tests.hub.meter_file import ANSWERS, meter_weights, swin_weights, write_file
from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.hub.architecture import to_plain
from vle_lightning.hub.meter import FILE
from vle_lightning.hub.meter_export import meter_tensors
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.models.dual_stream import DualStreamConfig
from vle_lightning.models.presets import PRESETS
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.vqa import VQATask

TEXT = {
    "kind": "hf_text", "type": "roberta", "vocab_size": 60, "width": 12, "layers": 1, "heads": 3, "intermediate": 24,
    "max_positions": 40, "options": {"type_vocab_size": 1},
}  # fmt: skip
IMAGE = {"kind": "clip_vit", "image_size": 16, "patch_size": 8, "width": 8, "layers": 1, "heads": 1, "intermediate": 16}
FUSION = {"kind": "co_attention", "width": 8, "layers": 1, "heads": 2, "intermediate": 16, "token_types": 2}
TINY: dict[str, Any] = {"text": TEXT, "image": IMAGE, "fusion": FUSION}
SWIN = {"kind": "timm_image", "name": "swin_tiny_patch4_window7_224", "image_size": 32, "pooling": "mean"}
SWIN_OPTIONS = {"patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
VIT = {"kind": "timm_image", "name": "vit_tiny_patch16_224", "image_size": 16}


def changed(part: str, **options: object) -> dict[str, Any]:
    return {**TINY, part: {**TINY[part], **options}}


def of_timm(image: dict[str, object], **options: object) -> dict[str, Any]:
    return {**TINY, "image": {**image, "options": options}}


REFUSED = {
    "deberta": (
        {**TINY, "text": {"kind": "deberta", "vocab_size": 60, "width": 8, "layers": 1, "heads": 2, "intermediate": 8}},
        "model.architecture.text (deberta)",
    ),
    "electra": (
        {**TINY, "text": {**TEXT, "type": "electra", "options": {"embedding_size": 12}}},
        "model.architecture.text.options.embedding_size (12), model.architecture.text.type (electra)",
    ),
    "activation": (
        changed("text", options={"type_vocab_size": 1, "hidden_act": "relu"}),
        "model.architecture.text.options.hidden_act (relu)",
    ),
    "words": (
        {**TINY, "text": {"kind": "word_embeddings", "vocab_size": 60, "width": 12, "max_positions": 40}},
        "model.architecture.text (word_embeddings)",
    ),
    "heads": (changed("image", heads=2), "model.architecture.image.heads (2)"),
    "gelu": (changed("image", activation="gelu"), "model.architecture.image.activation (gelu)"),
    "mean": (changed("image", pooling="mean"), "model.architecture.image.pooling (mean)"),
    "eps": (changed("fusion", layer_norm_eps=1e-5), "model.architecture.fusion.layer_norm_eps (1e-05)"),
    "vit": (of_timm(VIT, patch_size=8, embed_dim=6, depth=1, num_heads=1), "image.name (vit_tiny_patch16_224)"),
    "window": (of_timm(SWIN, **SWIN_OPTIONS, window_size=4), "METER's Swin has windows of 8 x 8 tokens"),
    "pooling": (of_timm({**SWIN, "pooling": "first"}, **SWIN_OPTIONS), "model.architecture.image.pooling (first)"),
    "colours": (
        of_timm({**SWIN, "mean": [0.5, 0.5, 0.5], "std": [0.229, 0.224, 0.225]}, **SWIN_OPTIONS),
        "no place for model.architecture.image.mean ([0.5, 0.5, 0.5]); export",
    ),
    "mlp": (of_timm(SWIN, **SWIN_OPTIONS, window_size=8, mlp_ratio=2.0), "image.options.mlp_ratio (2.0)"),
    "merged": ({**TINY, "fusion": {**FUSION, "kind": "merged_attention"}}, "fusion (merged_attention)"),
    "decoder": (
        {**TINY, "decoder": {"kind": "decoder", "layers": 1, "heads": 2, "intermediate": 8}},
        "a dual stream without a decoder",
    ),
}


@pytest.mark.parametrize("part", REFUSED)
def test_a_part_that_meters_code_does_not_have_is_refused_in_one_sentence(part: str, tmp_path: Path) -> None:
    architecture, told = REFUSED[part]
    task = VQATask(architecture, answers=2)
    with pytest.raises(UserError) as caught:
        task.save_pretrained(tmp_path / "out", layout="meter")
    assert told in str(caught.value)
    assert str(caught.value).endswith("export it in ours")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / FILE).exists()


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (lambda: PretrainTask(TINY, {"itm": 1.0, "mpc": 1.0}, classes=3), "no place for the head mpc"),
        (lambda: PretrainTask(TINY, {"pbc": 1.0}), "no place for the head pbc_classifier"),
        (lambda: PretrainTask(TINY, {"mlm": 1.0}), r"mlm_score.transform.1.weight.*the head of model.tied: false"),
        (lambda: RetrievalTask(TINY, contrastive=1.0), "no place for the head contrastive"),
        (lambda: VQATask(TINY, answers=2, blind="image"), "blind=image has no form in METER's layout"),
    ],
    ids=["mpc", "pbc", "tied", "contrastive", "blind"],
)
def test_a_head_that_meters_code_does_not_have_is_refused_in_one_sentence(
    task: Any,  # noqa: ANN401 (makes a task)
    told: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=f"{told}.*; export it in ours$"):
        task().save_pretrained(tmp_path / "out", layout="meter")


def test_a_meter_has_no_form_in_vles_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        VQATask(TINY, answers=2).save_pretrained(tmp_path, layout="vle")
    assert "model.architecture.text (hf_text)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_no_tensor_tells_comes_back_all_the_same(tmp_path: Path) -> None:
    """A text encoder of other heads than METER's, and a RoBERTa with segments, which looks like a BERT."""
    for options in ({"type_vocab_size": 1}, {"type_vocab_size": 2}):
        task = PretrainTask(changed("text", options=options, pad_token_id=3), {"itm": 1.0, "mlm": 1.0}, tied=False)
        task.save_pretrained(tmp_path, layout="meter")
        again = PretrainTask.from_pretrained(tmp_path)
        assert dual(again.model).config.text == dual(task.model).config.text
        assert dual(again.model).config.fusion == dual(task.model).config.fusion
        ids, pixels = torch.randint(4, 60, (2, 5)), torch.randn(2, 3, 16, 16)
        states = [t.eval().model.features((ids, ids > 0), pixels)[2] for t in (task, again)]
        assert torch.equal(*(fused.pooled for fused in states if fused is not None))


def test_a_swin_of_a_preset_is_written_though_its_name_alone_tells_its_sizes() -> None:
    preset = of_kind(DualStreamConfig, PRESETS["meter-swin-roberta"])
    config = replace(preset, fusion=replace(of_kind(CoAttentionConfig, preset.fusion), layers=1))
    with torch.device("meta"):
        tensors = meter_tensors(config.build(), {})
    assert tensors["vit_model.layers.2.downsample.norm.weight"].shape == (2048,)
    assert tensors["cross_modal_image_transform.weight"].shape == (768, 1024)


# The command


def export(source: Path, target: Path, *options: str) -> int:
    return main(["export", str(source), "--to", str(target), *options])


def test_a_run_is_exported_to_meters_layout_and_back(
    tmp_path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "answers.json").write_text(json.dumps(["yes", "no", "two", "red", "blue"]))
    weights = meter_weights("vqa_classifier", words=300)
    task = VQATask.from_pretrained(write_file(tmp_path / "source.ckpt", weights))
    checkpoint: dict[str, object] = {"state_dict": task.state_dict(), "epoch": 1}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, run / "best.ckpt")
    data = {"tokenizer": "data/toy/tokenizer", "image_size": 48, "answers": str(tmp_path / "answers.json")}
    (run / "config.yaml").write_text(yaml.safe_dump({"task": "vqa", "model": {}, "data": data}))
    assert export(run, tmp_path / "meter", "--format", "meter") == 0
    assert "in the layout 'meter'" in capsys.readouterr().out
    content = torch.load(tmp_path / "meter" / FILE, weights_only=True)["state_dict"]
    assert content["vit_model.visual.positional_embedding"].shape == (37, 20)  # of the run's 48 pixels
    assert torch.equal(content["vqa_classifier.3.weight"], weights["vqa_classifier.3.weight"])
    assert export(tmp_path / "meter", tmp_path / "own") == 0
    assert export(tmp_path / "own", tmp_path / "third", "--format", "meter") == 0
    third = torch.load(tmp_path / "third" / FILE, weights_only=True)["state_dict"]
    assert third.keys() == content.keys()
    assert all(torch.equal(third[key], value) for key, value in content.items())
    assert VQATask.from_pretrained(tmp_path / "own").options == {"answers": ANSWERS}
    capsys.readouterr()
    assert export(tmp_path / "own", tmp_path / "vle", "--format", "vle") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_fit_starts_from_a_file_of_meters_at_another_image_size_and_says_so(
    tmp_path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    weights = meter_weights("itm_score", words=300, segments=2)  # a BERT: pads with 0, as the toy tokenizer
    file = write_file(tmp_path / "meter.ckpt", weights)
    config = dual(from_pretrained(file)[0]).config
    options = {
        "model.init": file,
        "model.architecture": json.dumps(to_plain(config)),
        "model.answers": len(json.loads(Path("data/toy/shards/answers.json").read_text())),
        "run_root": tmp_path,
        "trainer.max_steps": 1,
        "trainer.limit_val_batches": 1,
        "data.workers": 0,
        "data.batch_size": 4,
        "data.global_batch_size": 4,
    }
    words = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    toy = Path(__file__).parents[2] / "experiments" / "vqa" / "toy.yaml"
    assert main(["fit", "--config", str(toy), *words]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("model.init: loaded ")
    assert "left out itm_score, text_transformer" in first
    assert "new for this data: vqa_classifier" in first
    assert first.endswith("; then resized the image encoder's positions from 32 to 48 pixels")


def test_a_swin_of_the_file_is_exported_as_it_was(tmp_path: Path) -> None:
    file = write_file(tmp_path / "meter.ckpt", swin_weights("itm_score"))
    assert export(file, tmp_path / "out", "--format", "meter") == 0
    encoder, report = from_pretrained(tmp_path / "out")
    assert report.dropped == ("itm_score", "text_transformer.embeddings.position_ids")
    assert encoder.config == from_pretrained(file)[0].config
