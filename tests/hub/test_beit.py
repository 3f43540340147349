"""A mixture of experts starts from a BEiT: its attention, image experts and patches, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
from torch import Tensor

from tests.factories import of_kind
from tests.hub.test_vlmo import CONFIG
from tests.hub.vlmo_file import HEADS, IMAGE_ROWS, LAYERS, PATCH, SIZE, WIDTH, beit_weights
from vle_lightning.errors import UserError
from vle_lightning.hub import beit
from vle_lightning.hub.towers import fill_encoder
from vle_lightning.models.mome import MoME
from vle_lightning.models.relative_bias import resize_bias_table
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.pretrain_texts import PretrainTextsTask


def make(**changes: int | str | bool | None) -> MoME:
    torch.manual_seed(0)
    return of_kind(MoME, replace(CONFIG, **changes).build()).eval()  # type: ignore[arg-type]


def write(weights: dict[str, Tensor], file: Path) -> str:
    torch.save({"model": weights}, file)
    return str(file)


@pytest.mark.parametrize("tables", ["each", "shared"])
def test_attention_and_image_experts_land_and_all_else_stays(tables: str, tmp_path: Path) -> None:
    weights = beit_weights(tables, inputs="tuned" if tables == "each" else "masked")
    index = "blocks.0.attn" if tables == "each" else "rel_pos_bias"
    weights[f"{index}.relative_position_index"] = torch.zeros(17, 17, dtype=torch.long)
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = fill_encoder(model, "image", write(weights, tmp_path / "beit.pth"))
    state = model.state_dict()
    for number in range(LAYERS):
        ours, theirs = f"blocks.{number}", f"blocks.{number}"
        pairs = {
            "attention.qkv.weight": "attn.qkv.weight",
            "attention.v_bias": "attn.v_bias",
            "attention.proj.bias": "attn.proj.bias",
            "norm.weight": "norm1.weight",
            "scale_2": "gamma_2",
            "experts.image.norm.bias": "norm2.bias",
            "experts.image.fc1.weight": "mlp.fc1.weight",
        }
        assert all(torch.equal(state[f"{ours}.{one}"], weights[f"{theirs}.{other}"]) for one, other in pairs.items())
        name = f"{theirs}.attn" if tables == "each" else "rel_pos_bias"
        table = weights[f"{name}.relative_position_bias_table"]
        assert torch.equal(state["position_bias"][:IMAGE_ROWS, number * HEADS : (number + 1) * HEADS], table)
    assert not state["position_bias"][IMAGE_ROWS:].any()
    assert torch.equal(state["image.class_embedding"], weights["cls_token"][0, 0])
    rest = [key for key in state if key.startswith(("text.", "token_types.", "pooler.")) or ".experts.text." in key]
    rest += [key for key in state if ".experts.pair." in key]
    assert all(torch.equal(state[key], before[key]) for key in rest)
    has_norm = tables == "shared"  # after pre-training; fine-tuning has moved it behind the mean of the patches
    assert torch.equal(state["norm.weight"], weights["norm.weight"] if has_norm else torch.ones(WIDTH))
    dead = ("head.", "fc_norm.", "lm_head.", "mask_token")
    live = [key for key in weights if not key.startswith(dead) and not key.endswith("position_index")]
    assert report.tensors == len(live)
    assert set(report.dropped) == weights.keys() - set(live)
    assert ("the last norm" in report.new) is not has_norm
    assert "newly made: text embeddings" in str(report)


def test_the_image_is_encoded_as_timms_beit_does() -> None:
    """All of the image path: the class token and the patches before the last norm."""
    torch.manual_seed(0)
    theirs = timm.create_model(
        "beit_base_patch16_224", img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS, num_heads=HEADS,
        mlp_ratio=2.0, num_classes=0, global_pool="token",
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda name, pretrained: theirs)
        report = beit.fill_mome(model, "image", "timm:beit_base_patch16_224")
    assert "from timm:beit_base_patch16_224" in str(report)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        states = model.encode_single(model.encode_image(pixels), "image")
        # VLMo adds a token type to the image before the first block
        parts: Any = theirs
        embedded = parts.patch_embed(pixels)
        wanted = torch.cat([parts.cls_token.expand(2, -1, -1), embedded], 1) + model.token_types.weight[1]
        for block in parts.blocks:
            wanted = block(wanted)
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)


def test_positions_grow_with_the_pictures_and_never_shrink(tmp_path: Path) -> None:
    weights, model = beit_weights("each"), make(image_size=48)
    report = fill_encoder(model, "image", write(weights, tmp_path / "beit.pth"))
    assert report.resized == ("the position biases from 32 to 48 pixels",)
    table = resize_bias_table(weights["blocks.1.attn.relative_position_bias_table"], 4, 6)
    assert model.position_bias is not None
    torch.testing.assert_close(model.position_bias[: len(table), HEADS : 2 * HEADS], table)
    larger = write(beit_weights("each", size=48), tmp_path / "larger.pth")
    with pytest.raises(UserError, match="is of 48 pixels, and its positions cannot shrink to 32"):
        fill_encoder(make(), "image", larger)


def test_a_task_starts_from_a_beit_and_tells(tmp_path: Path) -> None:
    file = write(beit_weights("each"), tmp_path / "beit.pth")
    task = PretrainTask(CONFIG, {"mlm": 1.0}, tied=False, image_init=file)
    assert "beit.pth; newly made: text embeddings, token types" in str(task.load_report)
    texts = PretrainTextsTask(CONFIG, freeze=["blocks.attention", "blocks.norm"], image_init=file)
    assert "beit.pth; newly made: text embeddings" in str(texts.load_report)
    weight = texts.model.get_submodule("blocks.1.attention.qkv").weight
    assert isinstance(weight, torch.nn.Parameter)
    assert not weight.requires_grad
    assert torch.equal(weight, beit_weights("each")["blocks.1.attn.qkv.weight"])
    with pytest.raises(UserError, match=r"^model.text_init: a mixture of experts has no text encoder.*\(model.init\)$"):
        PretrainTask(CONFIG, {"mlm": 1.0}, tied=False, text_init="bert-base-uncased")


def broken(weights: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    return {**weights, key: value} if value is not None else {k: v for k, v in weights.items() if k != key}


TABLE = "blocks.1.attn.relative_position_bias_table"


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("blocks.1.mlp.fc1.bias", None, "blocks.1.mlp.fc1.bias is missing"),
        ("blocks.1.attn.q_bias", torch.zeros(3), r"blocks.1.attn.q_bias is \(3,\), the model has \(16,\)"),
        ("blocks.3.attn.q_bias", torch.zeros(16), "blocks.3.attn.q_bias is unknown here"),
        ("pos_embed", torch.zeros(1, 17, 16), "pos_embed is unknown here"),
        (TABLE, None, f"{TABLE} is missing"),
        (TABLE, torch.zeros(51, 4), rf"{TABLE} is \(51, 4\); rows of a square grid and 4 heads belong there"),
        (TABLE, torch.full((52, 4), torch.nan), "not finite"),
        ("cls_token", None, "is not a BEiT"),
    ],
)
def test_a_beit_that_does_not_fit_is_told(key: str, value: Tensor | None, told: str, tmp_path: Path) -> None:
    file = write(broken(beit_weights("each"), key, value), tmp_path / "beit.pth")
    with pytest.raises(UserError, match=told):
        fill_encoder(make(), "image", file)


def test_what_is_no_beit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absolute ones; it cannot start from it"):
        fill_encoder(make(positions="absolute", layer_scale=None), "image", "timm:beit_base_patch16_224")
    with pytest.raises(UserError, match=r"there is no file .*nowhere.pth; name one, or timm:NAME"):
        fill_encoder(make(), "image", str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match=r"model.image_init: timm has no model nothing; name a BEiT"):
        fill_encoder(make(), "image", "timm:nothing")
    with (
        patch.object(timm, "create_model") as asked,
        pytest.raises(UserError, match="a1_in1k is not a BEiT"),
    ):
        fill_encoder(make(), "image", "timm:resnet18.a1_in1k")
    asked.assert_not_called()  # it would ask the network
