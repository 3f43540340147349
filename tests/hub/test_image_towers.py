"""Image encoders that start from longer CLIPs and from files of timm's kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.test_towers import IMAGE, save_clip
from vle_lightning.encoders.clip_vit import ClipViT
from vle_lightning.encoders.timm_image import TimmImageConfig, TimmImageEncoder
from vle_lightning.errors import UserError
from vle_lightning.hub.towers import fill_image_tower, fill_timm

SIZES = {"patch_size": 2, "embed_dim": 8, "depths": [1, 2, 2], "num_heads": [1, 2, 4], "window_size": 4}
SWIN = TimmImageConfig(32, "swin_tiny_patch4_window7_224", pooling="mean", options=SIZES)
VIT = TimmImageConfig(
    32, "vit_tiny_patch16_224", options={"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
)


def timms(config: TimmImageConfig, size: int = 32) -> Any:  # noqa: ANN401 (a model of timm)
    """Make timm's model with its classifier, its weights drawn at random."""
    torch.manual_seed(0)
    model = timm.create_model(config.name, img_size=size, num_classes=5, **config.options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def original(weights: dict[str, Tensor]) -> dict[str, object]:
    """Name a Swin's weights as its authors' files do: patches are merged at the end of a stage, buffers are stored."""
    renamed: dict[str, Tensor] = {"layers.1.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    for key, value in weights.items():
        parts = key.replace("head.fc.", "head.").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts)] = value
    return {"model": renamed}


@pytest.mark.parametrize("layout", ["timm", "safetensors", "original"])
def test_a_file_of_a_swin_gives_timms_states(layout: str, tmp_path: Path) -> None:
    model, encoder = timms(SWIN), TimmImageEncoder(SWIN).eval()
    file = tmp_path / f"weights.{'safetensors' if layout == 'safetensors' else 'pth'}"
    weights = model.state_dict()
    if layout == "safetensors":
        save_file(weights, file)
    else:
        torch.save(original(weights) if layout == "original" else weights, file)
    report = fill_timm(encoder, str(file))
    assert report.tensors == len(encoder.state_dict())
    assert set(report.dropped) == {"head.fc.weight", "head.fc.bias"}
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels).states, model.forward_features(pixels).flatten(1, 2))


def test_a_file_of_another_image_size_is_resized(tmp_path: Path) -> None:
    torch.save(timms(VIT, 48).state_dict(), tmp_path / "weights.pth")
    encoder = TimmImageEncoder(VIT)
    fill_timm(encoder, str(tmp_path / "weights.pth"))
    assert encoder.model.pos_embed.shape == (1, 17, 12)


@pytest.mark.parametrize(
    ("key", "shape", "told"),
    [
        ("layers.0.blocks.0.mlp.fc1.weight", None, "model.layers.0.blocks.0.mlp.fc1.weight is missing"),
        ("surprise", (2,), "model.surprise is unknown here"),
        ("norm.bias", (3,), r"model.norm.bias is \(3,\), the model has \(32,\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    key: str, shape: tuple[int, ...] | None, told: str, tmp_path: Path
) -> None:
    weights = timms(SWIN).state_dict()
    if shape is None:
        del weights[key]
    else:
        weights[key] = torch.zeros(shape)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=told):
        fill_timm(TimmImageEncoder(SWIN), str(tmp_path / "weights.pth"))


class Command:
    """Would run a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_file_that_is_not_there_or_would_run_code_is_one_sentence(tmp_path: Path) -> None:
    encoder = TimmImageEncoder(VIT)
    with pytest.raises(UserError, match=r"model.image_init: there is no file .*nowhere.pth; name one, or timm:NAME"):
        fill_timm(encoder, str(tmp_path / "nowhere.pth"))
    torch.save({"model": timms(VIT).state_dict(), "more": Command(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"could run code \(\w+.system\), and nothing of it was run$"):
        fill_timm(encoder, str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()


def test_the_last_block_of_a_clip_is_left_out_where_the_encoder_has_one_less(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "three", num_hidden_layers=3)
    tower = ClipViT(IMAGE).eval()
    report = fill_image_tower(tower, str(tmp_path / "three"))
    assert "block 2, the last one" in report.dropped
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before_last = clip(pixels, output_hidden_states=True).hidden_states[2]
        norm = clip.get_submodule(next(name for name, _ in clip.named_modules() if name.endswith("post_layernorm")))
        torch.testing.assert_close(tower(pixels).states, norm(before_last))
    save_clip(tmp_path / "four", num_hidden_layers=4)
    with pytest.raises(UserError, match=r"encoder.layers.3.* is unknown here"):
        fill_image_tower(ClipViT(IMAGE), str(tmp_path / "four"))
    save_clip(tmp_path / "one", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"encoder.layers.1.* is missing"):
        fill_image_tower(ClipViT(IMAGE), str(tmp_path / "one"))
