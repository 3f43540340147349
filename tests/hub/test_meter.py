"""METER's checkpoints: all of a file lands, by METER's own names, and comes back as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.factories import dual, of_kind
from tests.hub.meter_file import (
    IMAGE,
    POSITIONS,
    SIZE,
    WORDS,
    is_dead,
    make_swin,
    meter_weights,
    swin_weights,
    write_file,
)
from vle_lightning.encoders.clip_vit import ClipViT, ClipViTConfig
from vle_lightning.encoders.hf_text import HFTextConfig
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.encoders.timm_image import TimmImageEncoder
from vle_lightning.errors import UserError
from vle_lightning.export import find_task
from vle_lightning.hub.meter import FILE
from vle_lightning.hub.pretrained import from_pretrained, read_pretrained
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.nlvr2 import NLVR2Task
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.snli_ve import SNLIVETask
from vle_lightning.tasks.vqa import VQATask

ALL_HEADS = ("itm_score", "mlm_score")
BLOCK = "vit_model.visual.transformer.resblocks.1"


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / FILE, weights_only=True)
    return content


def live(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not is_dead(key)}


# Reading


def test_every_live_tensor_lands_and_the_rest_is_named(tmp_path: Path) -> None:
    weights = meter_weights(*ALL_HEADS)
    encoder, report = from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    dead = {key for key in weights if is_dead(key)} | {"text_transformer.embeddings.position_ids"}
    assert set(report.dropped) == dead | set(ALL_HEADS)
    assert report.tensors == len(encoder.state_dict())
    assert report.parameters == sum(
        value.numel() for key, value in weights.items() if key not in dead and not key.startswith(ALL_HEADS)
    )
    state = encoder.state_dict()
    key = state["image.encoder.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(key, weights[f"{BLOCK}.attn.in_proj_weight"][IMAGE : 2 * IMAGE])
    cross = "cross_modal_image_layers.1.crossattention.self.value.weight"
    assert torch.equal(state["fusion.image.1.cross.value.weight"], weights[cross])


def test_sizes_are_those_of_the_tensors_whatever_the_options_say(tmp_path: Path) -> None:
    encoder, _ = from_pretrained(write_file(tmp_path / "meter.ckpt", meter_weights(), image_size=576, patch_size=32))
    config = dual(encoder).config
    assert config.image == ClipViTConfig(SIZE, 8, IMAGE, layers=2, heads=1, intermediate=32)
    assert config.fusion.layer_norm_eps == 1e-12
    assert (config.fusion.heads, config.fusion.token_types, config.fusion.layers) == (2, 2, 2)
    text = of_kind(HFTextConfig, config.text)
    assert (text.type, text.vocab_size, text.max_positions, text.layers) == ("roberta", WORDS, POSITIONS, 2)
    assert (text.pad_token_id, text.layer_norm_eps, text.intermediate) == (1, 1e-5, 24)


def test_a_file_without_options_is_read_all_the_same(tmp_path: Path) -> None:
    torch.save({"state_dict": meter_weights()}, tmp_path / "meter.ckpt")
    assert dual(from_pretrained(tmp_path / "meter.ckpt")[0]).config.fusion.heads == 1  # of 64 numbers or less


def test_two_segments_tell_a_bert(tmp_path: Path) -> None:
    encoder, _ = from_pretrained(write_file(tmp_path / "meter.ckpt", meter_weights(segments=2)))
    text = of_kind(HFTextConfig, dual(encoder).config.text)
    assert (text.type, text.pad_token_id, text.layer_norm_eps) == ("bert", 0, 1e-12)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (f"{BLOCK}.attn.in_proj_weight", f"{BLOCK}.attn.in_proj_weight is missing"),
        (f"{BLOCK}.mlp.c_fc.bias", f"{BLOCK}.mlp.c_fc.bias is missing"),
        ("vit_model.visual.conv1.weight", "vit_model.visual.conv1.weight is missing"),
        ("token_type_embeddings.weight", "token_type_embeddings.weight is missing"),
        ("cross_modal_text_layers.1.output.LayerNorm.bias", "cross_modal_text_layers.1.output.LayerNorm.bias is mis"),
        ("text_transformer.encoder.layer.0.output.dense.bias", "encoder.layer.0.output.dense.bias is missing"),
        ("mlm_score.bias", "mlm_score.bias is missing"),
        ("itm_score.fc.weight", "itm_score.fc.weight is missing"),
    ],
)
def test_a_missing_tensor_is_told_by_meters_name(key: str, told: str, tmp_path: Path) -> None:
    weights = meter_weights(*ALL_HEADS)
    del weights[key]
    with pytest.raises(UserError) as caught:
        PretrainTask.from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("key", "shape", "told"),
    [
        (f"{BLOCK}.attn.in_proj_bias", (7,), f"{BLOCK}.attn.in_proj_bias is unknown here"),
        (f"{BLOCK}.attn.in_proj_bias", (30,), f"{BLOCK}.attn.in_proj_bias is (10,), the model has (20,)"),
        ("vit_model.visual.positional_embedding", (12, IMAGE), "vit_model.visual.positional_embedding is (12, 20)"),
        ("vit_model.visual.conv1.weight", (IMAGE, 3), "vit_model.visual.conv1.weight is (20, 3), of 4 dimensions"),
        (
            "cross_modal_image_pooler.dense.bias",
            (3,),
            "cross_modal_image_pooler.dense.bias is (3,), the model has (8,)",
        ),
        ("itm_score.fc.bias", (3,), "itm_score.fc.bias is (3,), the model has (2,)"),
        ("mlm_score.decoder.weight", (9, 8), "mlm_score.decoder.weight is (9, 8), the model has (60, 8)"),
        ("mlm_score.surprise", (9, 8), "mlm_score.surprise is unknown here"),
        ("cross_modal_text_layers.1.surprise", (1,), "cross_modal_text_layers.1.surprise is unknown here"),
        ("surprise", (1,), "surprise is unknown here"),
    ],
)
def test_a_tensor_that_does_not_fit_is_told_by_meters_name(
    key: str, shape: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    weights = {**meter_weights(*ALL_HEADS), key: torch.zeros(shape)}
    with pytest.raises(UserError) as caught:
        PretrainTask.from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_heads": 3}, r"meter.ckpt.*heads = 3"),
        ({"num_heads": 0.5}, r"meter.ckpt.*heads = 0: must be at least 1"),
        ({"num_heads": "4"}, r"meter.ckpt.*option num_heads is '4', no number"),
        ({"drop_rate": float("inf")}, r"meter.ckpt.*option drop_rate is inf, no number"),
        ({"text": {"num_attention_heads": [2]}}, r"meter.ckpt.*option num_attention_heads is \[2\], no number"),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        from_pretrained(write_file(tmp_path / "meter.ckpt", meter_weights(), **options))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (dict([*meter_weights().items(), (5, torch.zeros(2))]), "5 is not the name of a tensor"),
        ({**meter_weights(), "vit_model.visual.positional_embedding": torch.zeros(0, IMAGE)}, "image_size = 0"),
        (
            {key: value for key, value in swin_weights().items() if not key.startswith("vit_model.layers.")},
            "vit_model.layers.0.blocks.0.attn.relative_position_bias_table is missing",
        ),
    ],
    ids=["a number for a name", "an empty table", "no layers"],
)
def test_a_file_that_tells_no_sizes_is_one_sentence(weights: Any, told: str, tmp_path: Path) -> None:  # noqa: ANN401
    with pytest.raises(UserError, match=f"meter.ckpt.*{told}"):
        from_pretrained(write_file(tmp_path / "meter.ckpt", weights))


# The tasks


@pytest.mark.parametrize(
    ("kind", "heads", "types"),
    [
        (PretrainTask, ("itm_score", "mlm_score"), 2),
        (VQATask, ("vqa_classifier",), 2),
        (SNLIVETask, ("snli_classifier",), 2),
        (NLVR2Task, ("nlvr2_classifier",), 3),
        (RetrievalTask, ("itm_score", "rank_output"), 2),
    ],
)
def test_a_task_comes_back_from_its_file_and_goes_there_bit_by_bit(
    kind: type[VisionLanguageTask], heads: tuple[str, ...], types: int, tmp_path: Path
) -> None:
    weights = meter_weights(*heads, types=types)
    file = write_file(tmp_path / "meter.ckpt", weights)
    assert find_task(read_pretrained(file)) is kind
    task = kind.from_pretrained(file)
    assert task.new_heads == ()
    task.save_pretrained(tmp_path / "again", layout="meter")
    again = written(tmp_path / "again")["state_dict"]
    assert again.keys() == live(weights).keys()
    assert all(torch.equal(again[key], value) for key, value in live(weights).items())
    assert find_task(read_pretrained(tmp_path / "again")) is kind
    back = kind.from_pretrained(tmp_path / "again" / FILE)
    assert back.model.config == task.model.config
    assert all(torch.equal(value, task.state_dict()[key]) for key, value in back.state_dict().items())


def classify(weights: dict[str, Tensor], head: str, pooled: Tensor) -> Tensor:
    """Compute a classifier of METER's: linear, layer norm, GELU, linear."""
    states = F.linear(pooled, weights[f"{head}.0.weight"], weights[f"{head}.0.bias"])
    states = F.gelu(F.layer_norm(states, states.shape[-1:], weights[f"{head}.1.weight"], weights[f"{head}.1.bias"]))
    return F.linear(states, weights[f"{head}.3.weight"], weights[f"{head}.3.bias"])


@pytest.mark.parametrize(
    ("kind", "head", "types", "theirs"),
    [
        (SNLIVETask, "snli_classifier", 2, ("contradiction", "neutral", "entailment")),
        (NLVR2Task, "nlvr2_classifier", 3, ("false", "true")),
    ],
)
def test_classes_keep_their_meaning_in_both_directions(
    kind: type[SNLIVETask], head: str, types: int, theirs: tuple[str, ...], tmp_path: Path
) -> None:
    weights = meter_weights(head, types=types)
    task = kind.from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    pooled = torch.randn(3, weights[f"{head}.0.weight"].shape[1])
    wanted = classify(weights, head, pooled)
    logits = task.head(pooled)
    for number, name in enumerate(theirs):
        torch.testing.assert_close(logits[:, task.classes.index(name)], wanted[:, number])
    task.save_pretrained(tmp_path / "again", layout="meter")
    torch.testing.assert_close(classify(written(tmp_path / "again")["state_dict"], head, pooled), wanted)
    other = kind(task.model.config, classes=list(reversed(task.classes)))
    with pytest.raises(UserError, match=f"no place for the classes {theirs[0]}.*there they are {theirs[0]}|export"):
        other.save_pretrained(tmp_path / "other", layout="meter")


def test_mlm_has_meters_head_untied(tmp_path: Path) -> None:
    weights = meter_weights(*ALL_HEADS)
    task = PretrainTask.from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    assert task.options["tied"] is False
    assert task.weights == {"itm": 1.0, "mlm": 1.0}
    objective = of_kind(MaskedLanguageModelling, task.objectives["mlm"])
    states = torch.randn(4, 8)
    after = F.gelu(F.linear(states, *(weights[f"mlm_score.transform.dense.{part}"] for part in ("weight", "bias"))))
    scale, shift = (weights[f"mlm_score.transform.LayerNorm.{part}"] for part in ("weight", "bias"))
    wanted = F.linear(
        F.layer_norm(after, (8,), scale, shift, 1e-12), weights["mlm_score.decoder.weight"], weights["mlm_score.bias"]
    )
    torch.testing.assert_close(objective.logits(states), wanted)


def test_retrieval_ranks_by_the_trained_output_and_else_by_the_row_that_says_match(tmp_path: Path) -> None:
    weights, pooled = meter_weights("itm_score", "rank_output"), torch.randn(3, 16)
    task = RetrievalTask.from_pretrained(write_file(tmp_path / "tuned.ckpt", weights))
    assert task.options["scorer"] == "rank"
    wanted = F.linear(pooled, weights["rank_output.weight"], weights["rank_output.bias"])[:, 0]
    torch.testing.assert_close(task.rate(pooled), wanted)
    plain = write_file(tmp_path / "meter.ckpt", meter_weights("itm_score"))
    fresh = RetrievalTask.from_pretrained(plain, scorer="rank")
    row = F.linear(pooled, weights["itm_score.fc.weight"], weights["itm_score.fc.bias"])[:, 1]
    torch.testing.assert_close(fresh.rate(pooled), row)
    assert not fresh.head.weight.requires_grad


def test_fine_tuning_tells_which_head_is_new(tmp_path: Path) -> None:
    file = write_file(tmp_path / "meter.ckpt", meter_weights(*ALL_HEADS))
    architecture = dual(from_pretrained(file)[0]).config
    task = VQATask(architecture, answers=3, init=str(file))
    assert "left out itm_score, mlm_score, text_transformer" in str(task.load_report)
    assert str(task.load_report).endswith("new for this data: vqa_classifier")
    assert task.new_heads == ("vqa_classifier",)


def test_nlvr2_starts_its_second_image_from_the_first_and_keeps_a_trained_one(tmp_path: Path) -> None:
    weights = meter_weights(*ALL_HEADS)
    file = write_file(tmp_path / "meter.ckpt", weights)
    architecture = dual(from_pretrained(file)[0]).config
    wider = replace(architecture, fusion=replace(architecture.fusion, token_types=3))
    task = NLVR2Task(wider, init=str(file))
    assert "resized the token types from 2 to 3" in str(task.load_report)
    assert torch.equal(task.model.token_types.weight, weights["token_type_embeddings.weight"][[0, 1, 1]])
    tuned = meter_weights("nlvr2_classifier", types=3)
    again = NLVR2Task(wider, init=str(write_file(tmp_path / "tuned.ckpt", tuned)))
    assert torch.equal(again.model.token_types.weight, tuned["token_type_embeddings.weight"])
    with pytest.raises(UserError, match=r"token_types is 2; NLVR2 needs 3"):
        NLVR2Task(architecture, init=str(file))


# Pictures of another size


def test_the_position_table_is_resized_to_the_size_asked_for(tmp_path: Path) -> None:
    weights = meter_weights("vqa_classifier")
    task = VQATask.from_pretrained(write_file(tmp_path / "meter.ckpt", weights), image_size=48)
    image = of_kind(ClipViT, dual(task.model).image)
    table = weights["vit_model.visual.positional_embedding"]
    assert torch.equal(image.position_embedding.weight, resize_position_table(table, (6, 6)))
    assert "resized the image encoder's positions from 32 to 48 pixels" in str(task.load_report)
    assert task.model.config.image_size == 48


# Swin


def test_a_swin_is_timms_flattened(tmp_path: Path) -> None:
    weights, swin = swin_weights(), make_swin()
    encoder, report = from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    image = of_kind(TimmImageEncoder, dual(encoder).image).eval()
    buffers = {key for key in weights if key.endswith(("relative_position_index", "attn_mask"))}
    assert len(buffers) == 6  # five blocks, of which one is shifted
    assert buffers <= set(report.dropped)
    assert (image.config.image_size, image.model.layers[0].blocks[0].window_size) == (SIZE, (4, 4))
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        states = image(pixels).states
        torch.testing.assert_close(states, swin.forward_features(pixels).flatten(1, 2))
    assert states.shape == (2, 16, 32)


def test_the_image_of_a_swin_is_pooled_by_its_mean(tmp_path: Path) -> None:
    encoder = dual(from_pretrained(write_file(tmp_path / "meter.ckpt", swin_weights()))[0]).eval()
    ids, mask = torch.randint(5, WORDS, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        text, image = encoder.encode_text(ids, mask), encoder.encode_image(torch.randn(2, 3, SIZE, SIZE))
        fused = encoder.fuse(text, image)
        wanted = torch.cat([encoder.text_pooler(fused.text[:, 0]), encoder.image_pooler(fused.image.mean(1))], dim=-1)
    torch.testing.assert_close(fused.pooled, wanted)
    torch.testing.assert_close(encoder.pool_pairs(text, image), wanted)


def test_a_swin_goes_back_to_its_file_and_takes_larger_pictures(tmp_path: Path) -> None:
    weights = swin_weights("vqa_classifier")
    task = VQATask.from_pretrained(write_file(tmp_path / "meter.ckpt", weights))
    task.save_pretrained(tmp_path / "again", layout="meter")
    content = written(tmp_path / "again")
    assert content["hyper_parameters"]["config"]["input_image_embed_size"] == 32
    assert content["state_dict"].keys() == live(weights).keys()
    assert all(torch.equal(content["state_dict"][key], value) for key, value in live(weights).items())
    larger = VQATask.from_pretrained(tmp_path / "again", image_size=48)
    assert "resized the image encoder's positions from 32 to 48 pixels" in str(larger.load_report)
    image = of_kind(TimmImageEncoder, dual(larger.model).image)
    before = weights["vit_model.layers.1.blocks.1.attn.relative_position_bias_table"]  # 7 offsets a side, 2 heads
    grid = torch.nn.functional.interpolate(before.T.view(1, 2, 7, 7), (11, 11), mode="bicubic", align_corners=False)
    table = image.model.layers[1].blocks[1].attn.relative_position_bias_table
    torch.testing.assert_close(table, grid.view(2, 121).T)
    assert image(torch.randn(1, 3, 48, 48)).states.shape == (1, 36, 32)
    for layout in ("own", "meter"):  # either says that the windows are larger now
        larger.save_pretrained(tmp_path / layout, layout=layout)
        back = VQATask.from_pretrained(tmp_path / layout)
        assert all(torch.equal(value, larger.state_dict()[key]) for key, value in back.state_dict().items())
    with pytest.raises(UserError, match="no multiple of the patches"):
        VQATask.from_pretrained(tmp_path / "again", image_size=52)
