"""The published layout is read whole, and written back bit by bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.factories import dual, of_kind
from tests.hub.published import ANSWERS, IMAGE, LENGTH, TEXT, publish, published_config, published_weights
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.hub.vle import VLE_HEADS, VLE_KEYS, encoder_config, published_name
from vle_lightning.models.presets import PRESETS
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

NAMES = {"id2label": {"0": "yes", "1": "no", "2": "two"}, "label2id": {"yes": 0, "no": 1, "two": 2}}
KINDS: dict[str, tuple[type[VisionLanguageTask], tuple[str, ...], dict[str, object]]] = {
    "pretrain": (PretrainTask, ("itm_score", "mlm_score", "pbc_classifier"), {}),
    "vqa": (VQATask, ("vqa_classifier",), {"architectures": ["VLEForVQA"], **NAMES}),
    "q2a": (VCRTask, ("vcr_q2a_logit",), {"architectures": ["VLEForVCRQ2A"]}),
    "qa2r": (VCRTask, ("vcr_qa2r_logit",), {"architectures": ["VLEForVCRQA2R"]}),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_round_trip_keeps_every_bit_and_option(kind: str, tmp_path: Path) -> None:
    task_class, heads, options = KINDS[kind]
    weights = published_weights(*heads)
    source = publish(tmp_path / "source", weights, **options)
    task_class.from_pretrained(source).save_pretrained(tmp_path / "own")
    task_class.from_pretrained(tmp_path / "own").save_pretrained(tmp_path / "back", "vle")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        assert back[key].dtype == value.dtype, key
        assert torch.equal(back[key], value), key
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == published_config(**options)


def test_all_parameters_of_all_heads_are_loaded(kind: str, tmp_path: Path) -> None:
    task_class, heads, options = KINDS[kind]
    weights = published_weights(*heads)
    task = task_class.from_pretrained(publish(tmp_path, weights, **options))
    floats = [value for value in weights.values() if value.is_floating_point()]
    assert task.load_report is not None
    assert f"loaded {sum(v.numel() for v in floats):,} parameters in {len(floats)} tensors" in task.load_report
    assert "newly made" not in task.load_report
    assert task.new_heads == ()


def test_tensors_land_where_they_belong(tmp_path: Path) -> None:
    weights = published_weights("itm_score", "mlm_score")
    task = PretrainTask.from_pretrained(publish(tmp_path, weights))
    state = task.state_dict()
    for ours, published in {
        "model.text.model.encoder.rel_embeddings.weight": "vle.text_model.encoder.rel_embeddings.weight",
        "model.image.pre_norm.bias": "vle.vision_model.vision_model.pre_layrnorm.bias",
        "model.fusion.image.0.cross.value.weight": "vle.cross_modal_image_layers.0.crossattention.self.value.weight",
        "model.fusion.text.0.feed_forward.output.bias": "vle.cross_modal_text_layers.0.output.dense.bias",
        "model.text_pooler.dense.weight": "vle.cross_modal_text_pooler.dense.weight",
        "objectives.itm.head.weight": "itm_score.fc.weight",
        "objectives.mlm.transform.3.bias": "mlm_score.1.predictions.transform.LayerNorm.bias",
        "objectives.mlm.decoder.weight": "vle.text_model.embeddings.word_embeddings.weight",
    }.items():
        assert torch.equal(state[ours], weights[published]), ours


def test_a_model_that_started_here_gets_the_authors_defaults(tmp_path: Path) -> None:
    VQATask("tiny", answers=ANSWERS).save_pretrained(tmp_path, "vle")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["VLEForVQA"]
    assert len(config["id2label"]) == ANSWERS  # the authors' class sizes its head by it
    assert (config["hidden_size"], config["num_token_types"], config["model_type"]) == (32, 12, "vle")
    assert config["text_config"]["pos_att_type"] == ["p2c", "c2p"]
    assert config["vision_config"]["image_size"] == 48
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["vle.text_model.embeddings.position_ids"].shape == (1, 64)
    # 36 patches and the CLS
    assert weights["vle.vision_model.vision_model.embeddings.position_ids"].tolist() == [list(range(37))]
    loaded = VQATask.from_pretrained(tmp_path)
    tiny, config = PRESETS["tiny"], dual(loaded.model).config
    assert replace(of_kind(DebertaConfig, config.text), attention_dropout=None) == tiny.text
    assert config.image == tiny.image


def test_fine_tuning_carries_unused_options_along(tmp_path: Path) -> None:
    source = publish(tmp_path / "source", published_weights("itm_score"))
    encoder, _ = from_pretrained(source)
    task = VQATask(encoder.config, answers=ANSWERS, init=str(source))
    checkpoint: dict[str, object] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    VQATask.from_pretrained(tmp_path / "best.ckpt").save_pretrained(tmp_path / "out", "vle")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["_name_or_path"] == "kept as it is"
    assert config["architectures"] == ["VLEForVQA"]


@pytest.mark.parametrize(
    ("told", "wanted"),
    [("float16", "float32"), ("float32", "float32"), ("torch.float32", "torch.float32"), (None, None)],
)
def test_the_float_type_that_is_written_is_that_of_the_file(
    told: str | None, wanted: str | None, tmp_path: Path
) -> None:
    weights = {key: value.half() if told == "float16" else value for key, value in published_weights().items()}
    source = publish(tmp_path / "source", weights, torch_dtype=told, dtype=told)
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["torch_dtype"] = config["vision_config"]["dtype"] = told
    (source / "config.json").write_text(json.dumps(config))
    task = PretrainTask.from_pretrained(source, objectives={"itm": 1.0})
    task.save_pretrained(tmp_path / "vle", "vle")
    task.save_pretrained(tmp_path / "own")
    own = json.loads((tmp_path / "own" / "config.json").read_text())["published"]["config"]
    for written in (json.loads((tmp_path / "vle" / "config.json").read_text()), own):
        assert [written["torch_dtype"], written["dtype"]] == [wanted] * 2
        assert [written["text_config"]["torch_dtype"], written["vision_config"]["dtype"]] == [wanted] * 2
    for folder in ("vle", "own"):
        stored = load_file(tmp_path / folder / "model.safetensors").values()
        assert {value.dtype for value in stored if value.is_floating_point()} == {torch.float32}
    task.half().save_pretrained(tmp_path / "half", "vle")
    written = json.loads((tmp_path / "half" / "config.json").read_text())
    assert written["torch_dtype"] == (None if told is None else "float16")


def test_the_tied_decoder_is_not_written(tmp_path: Path) -> None:
    PretrainTask("tiny", objectives={"mlm": 1.0}).save_pretrained(tmp_path, "vle")
    assert not [key for key in load_file(tmp_path / "model.safetensors") if "decoder" in key]


def test_a_stored_decoder_must_be_the_word_embeddings(tmp_path: Path) -> None:
    weights = published_weights("mlm_score")
    decoder = "mlm_score.1.predictions.decoder.weight"
    weights[decoder] = weights["vle.text_model.embeddings.word_embeddings.weight"].clone()
    weights["mlm_score.1.predictions.decoder.bias"] = weights["mlm_score.1.predictions.bias"].clone()
    PretrainTask.from_pretrained(publish(tmp_path, weights))
    weights[decoder] += 1
    with pytest.raises(UserError, match="differs from .*word_embeddings.weight, to which it is tied"):
        PretrainTask.from_pretrained(publish(tmp_path, weights))


def test_the_bare_encoder_may_lack_the_prefix_and_the_buffers(tmp_path: Path) -> None:
    bare = {k.removeprefix("vle."): v for k, v in published_weights().items() if not k.endswith("position_ids")}
    source = publish(tmp_path / "source", bare, architectures=["VLEModel"])
    encoder, report = from_pretrained(source)
    assert report.tensors == len(bare)
    task = PretrainTask.from_pretrained(source, objectives={"mpc": 1.0})
    task.save_pretrained(tmp_path / "back", "vle")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == bare.keys()


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        (None, "surprise", 1),
        (None, "hidden_act", "relu"),
        ("text_config", "type_vocab_size", 2),
        ("text_config", "pos_att_type", "p2c"),
        ("text_config", "position_biased_input", True),
        ("vision_config", "num_channels", 1),
        ("vision_config", "surprise", None),
    ],
)
def test_an_option_that_changes_the_network_is_named(section: str | None, option: str, value: object) -> None:
    config = published_config()
    (config[section] if section else config)[option] = value
    with pytest.raises(UserError, match=f"{section + '.' if section else ''}{option} = "):
        encoder_config(config)


def test_a_missing_option_is_named() -> None:
    config = published_config()
    del config["text_config"]["position_buckets"], config["num_token_types"]
    with pytest.raises(UserError, match="text_config.position_buckets is missing\n  num_token_types is missing"):
        encoder_config(config)


def test_every_published_name_is_found_again() -> None:
    task = PretrainTask("tiny", objectives={"mlm": 1.0})
    names = [published_name(name) for name in task.model.state_dict()]
    assert len(set(names)) == len(names)
    assert all(name.startswith("vle.") for name in names)
    assert published_name("vqa_classifier.3.bias") == "vqa_classifier.3.bias"
    assert set(VLE_HEADS) >= {"itm_score", "mlm_score"}
    assert all(pattern.startswith("vle") for pattern in VLE_KEYS)


def test_the_published_encoder_works_on_other_and_oblong_pictures(tmp_path: Path) -> None:
    encoder = dual(from_pretrained(publish(tmp_path, published_weights()))[0]).eval()
    assert encoder.image(torch.randn(1, 3, 48, 24)).states.shape == (1, 1 + 6 * 3, IMAGE)
    ids = torch.randint(5, 40, (1, LENGTH + 9))  # longer than max_position_embeddings: positions are relative
    assert encoder.text(ids, torch.ones_like(ids, dtype=torch.bool)).states.shape == (1, LENGTH + 9, TEXT)
