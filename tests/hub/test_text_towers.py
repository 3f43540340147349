"""Text encoders that start from, or take their sizes from, models of transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

from tests.factories import dual, of_kind
from tests.hub.test_towers import damage
from vle_lightning.encoders.hf_text import HFTextConfig, HFTextEncoder
from vle_lightning.encoders.word_embeddings import WordEmbeddings, WordEmbeddingsConfig
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.hub.towers import fill_hf_text, fill_word_embeddings
from vle_lightning.tasks.pretrain import PretrainTask

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40,
}  # fmt: skip
IDS = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
KINDS: dict[str, Any] = {
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    "bert": BertConfig(**SIZES, layer_norm_eps=1e-12, pad_token_id=0),
    "electra": ElectraConfig(**SIZES, embedding_size=12, layer_norm_eps=1e-12, pad_token_id=0),
    "modernbert": ModernBertConfig(**SIZES, norm_eps=1e-5, pad_token_id=3, **IDS),
}
OPTIONS: dict[str, dict[str, Any]] = {"roberta": {"type_vocab_size": 1}, "electra": {"embedding_size": 12}}


def save(kind: str, folder: Path, **changes: object) -> Any:  # noqa: ANN401 (a model of transformers)
    torch.manual_seed(0)
    config = type(KINDS[kind])(**{**KINDS[kind].to_dict(), **changes})
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def config_of(kind: str, **changes: Any) -> HFTextConfig:  # noqa: ANN401 (fields)
    pad = KINDS[kind].pad_token_id
    eps = getattr(KINDS[kind], "layer_norm_eps", 1e-5)
    options = OPTIONS.get(kind, {})
    return replace(HFTextConfig(60, 16, kind, None, 2, 2, 32, 40, pad, eps, 0.1, options), **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_starts_from_a_saved_model_of_its_type(kind: str, tmp_path: Path) -> None:
    model = save(kind, tmp_path)
    encoder = HFTextEncoder(config_of(kind)).eval()
    report = fill_hf_text(encoder, str(tmp_path))
    assert report.tensors == len(encoder.state_dict())
    poolers = {"pooler.dense.weight", "pooler.dense.bias"} if kind in ("roberta", "bert") else set()
    assert set(report.dropped) == poolers
    ids, mask = torch.randint(4, 60, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    ids[~mask] = KINDS[kind].pad_token_id
    with torch.no_grad():
        ours, theirs = encoder(ids, mask).states, model(ids, mask.long()).last_hidden_state
    torch.testing.assert_close(ours[mask], theirs[mask])


def test_another_type_is_refused_in_one_sentence(tmp_path: Path) -> None:
    save("bert", tmp_path)
    with pytest.raises(UserError) as caught:
        fill_hf_text(HFTextEncoder(config_of("roberta")), str(tmp_path))
    assert str(caught.value) == f"model.text_init: {tmp_path} is a bert, the text encoder a roberta"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', the model has 'gelu'"),
        ({"layer_norm_eps": 1e-7}, "layer_norm_eps is 1e-07, the model has 1e-05"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4, the model has 2"),
        ({"pad_token_id": 0}, "pad_token_id is 0, the model has 1"),
        ({"hidden_size": 24}, "hidden_size is 24, the model has 16"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    save("roberta", tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        fill_hf_text(HFTextEncoder(config_of("roberta")), str(tmp_path))
    assert told in str(caught.value)


def test_what_no_state_depends_on_is_no_difference(tmp_path: Path) -> None:
    changes = {"initializer_range": 0.5, "hidden_dropout_prob": 0.3, "classifier_dropout": 0.2, "use_cache": False}
    save("roberta", tmp_path, **changes, id2label={0: "a", 1: "b", 2: "c"})
    assert fill_hf_text(HFTextEncoder(config_of("roberta")), str(tmp_path)).tensors > 0


def test_fields_that_older_versions_wrote_are_no_difference_unless_they_change_what_is_computed(tmp_path: Path) -> None:
    save("bert", tmp_path)
    file, encoder = tmp_path / "config.json", HFTextEncoder(config_of("bert"))
    published = json.loads(file.read_text()) | {"position_embedding_type": "absolute", "output_past": True}
    file.write_text(json.dumps(published))
    assert fill_hf_text(encoder, str(tmp_path)).tensors > 0
    file.write_text(json.dumps(published | {"position_embedding_type": "relative_key"}))
    with pytest.raises(UserError) as caught:
        fill_hf_text(encoder, str(tmp_path))
    assert "position_embedding_type is 'relative_key', the model has 'absolute'" in str(caught.value)


def test_a_file_that_lacks_a_tensor_is_refused_except_for_its_pooler(tmp_path: Path) -> None:
    save("roberta", tmp_path)
    damage(tmp_path, "pooler.dense.weight")
    fill_hf_text(HFTextEncoder(config_of("roberta")), str(tmp_path))
    damage(tmp_path, "encoder.layer.1.output.dense.bias")
    with pytest.raises(UserError, match=r"encoder.layer.1.output.dense.bias is missing"):
        fill_hf_text(HFTextEncoder(config_of("roberta")), str(tmp_path))


def test_word_embeddings_start_from_a_bert(tmp_path: Path) -> None:
    model = save("bert", tmp_path)
    encoder = WordEmbeddings(WordEmbeddingsConfig(60, 16, 40)).eval()
    report = fill_word_embeddings(encoder, str(tmp_path))
    assert report.dropped == ("2 layers",)
    ids = torch.randint(4, 60, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(encoder(ids, ids > 0).states, model.embeddings(ids))
    damage(tmp_path, "embeddings.word_embeddings.weight")
    with pytest.raises(UserError, match=r"embeddings.word_embeddings.weight is missing"):
        fill_word_embeddings(encoder, str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("roberta", {}, "a roberta counts positions from behind its padding id, the model from 0"),
        ("bert", {"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05, the model has 1e-12"),
        ("modernbert", {}, "(modernbert) has not the embeddings of a BERT"),
        ("bert", {"vocab_size": 70}, "words.weight is (70, 16), the model has (60, 16)"),
    ],
)
def test_word_embeddings_of_another_kind_are_refused(
    kind: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    save(kind, tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        fill_word_embeddings(WordEmbeddings(WordEmbeddingsConfig(60, 16, 40)), str(tmp_path))
    assert told in str(caught.value)


# Sizes by name


@pytest.mark.parametrize("kind", KINDS)
def test_an_architecture_takes_its_sizes_of_a_name_and_does_not_need_it_afterwards(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    save(kind, folder)
    given = {"preset": "tiny", "text": {"kind": "hf_text", "name": str(folder)}}
    task = PretrainTask(given, {"itm": 1.0}, text_init=str(folder))
    text = of_kind(HFTextConfig, dual(task.model).config.text)
    assert replace(text, options={}) == config_of(kind, options={}, dropout=0.0)  # the preset's
    assert OPTIONS.get(kind, {}).items() <= text.options.items()
    assert text.name is None
    shutil.rmtree(folder)
    task.save_pretrained(tmp_path / "ours")
    again = PretrainTask.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(value, task.state_dict()[key]) for key, value in again.state_dict().items())


def test_a_name_that_is_not_there_or_of_no_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.architecture.text.name: .*nowhere cannot be read \(not found, or no"):
        read_architecture({"preset": "tiny", "text": {"kind": "hf_text", "name": str(tmp_path / "nowhere")}})
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path / "clip")
    with pytest.raises(UserError, match=r"is not a text encoder: no vocab_size"):
        read_architecture({"preset": "tiny", "text": {"kind": "hf_text", "name": str(tmp_path / "clip")}})
