"""Towers filled from transformers and open_clip agree with those libraries' own outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, DebertaV2Config, DebertaV2Model

from vle_lightning.encoders.clip_vit import ClipViT, ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig, DebertaEncoder
from vle_lightning.errors import UserError
from vle_lightning.hub.keymap import rename
from vle_lightning.hub.towers import OPEN_CLIP_VISUAL, fill_image_tower, fill_text_tower

IMAGE = ClipViTConfig(image_size=32, patch_size=8, width=32, layers=2, heads=4, intermediate=64, activation="gelu")


VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 2.0}
OPEN_CLIP_SIZES = {
    "embed_dim": 16,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
TEXT = DebertaConfig(60, 32, 2, 4, 64, position_buckets=16, max_positions=64)


def save_clip(folder: Path, **changes: object) -> CLIPVisionModel:
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 8, "hidden_act": "gelu",
    }  # fmt: skip
    torch.manual_seed(0)
    clip = CLIPVisionModel(CLIPVisionConfig(**{**sizes, **changes})).eval()
    clip.save_pretrained(folder)
    return clip


def save_deberta(folder: Path, **changes: object) -> DebertaV2Model:
    sizes = {
        "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "type_vocab_size": 0, "relative_attention": True, "position_biased_input": False, "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_buckets": 16,
        "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    deberta = DebertaV2Model(DebertaV2Config(**{**sizes, **changes})).eval()
    deberta.save_pretrained(folder)
    return deberta


def test_a_transformers_clip_gives_its_own_states(tmp_path: Path) -> None:
    clip = save_clip(tmp_path)
    tower = ClipViT(IMAGE).eval()
    report = fill_image_tower(tower, str(tmp_path))
    pixels = torch.randn(2, 3, 32, 32)
    output = clip(pixels)
    states = tower(pixels).states
    torch.testing.assert_close(states[:, 0], output.pooler_output)
    norm = clip.get_submodule(next(name for name, _ in clip.named_modules() if name.endswith("post_layernorm")))
    torch.testing.assert_close(states, norm(output.last_hidden_state))
    assert report.tensors == len(tower.state_dict())


def test_a_clip_of_another_image_size_is_resized(tmp_path: Path) -> None:
    save_clip(tmp_path, image_size=48)
    report = fill_image_tower(ClipViT(IMAGE), str(tmp_path))
    assert report.resized == ("position_embedding.weight (37, 32) -> (17, 32)",)


@pytest.fixture
def open_clip_architecture(tmp_path: Path) -> str:
    """The name of a tiny architecture that open_clip knows from now on."""
    (tmp_path / "ViT-tiny-test.json").write_text(json.dumps(OPEN_CLIP_SIZES))
    open_clip.add_model_config(tmp_path / "ViT-tiny-test.json")
    return "ViT-tiny-test"


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_local_open_clip_file_gives_its_own_states(suffix: str, open_clip_architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clip = open_clip.create_model(open_clip_architecture).eval()
    file = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(clip.state_dict(), file)
    tower = ClipViT(IMAGE).eval()
    report = fill_image_tower(tower, f"open_clip:{open_clip_architecture}/{file}")
    pixels = torch.randn(2, 3, 32, 32)
    clip.visual.output_tokens = True
    _, patches = clip.visual(pixels)
    torch.testing.assert_close(tower(pixels).states[:, 1:], patches, atol=5e-6, rtol=1e-5)
    assert report.tensors == len(tower.state_dict())
    assert report.dropped == ("proj",)


def test_a_tower_that_computes_something_else_is_refused(open_clip_architecture: str, tmp_path: Path) -> None:
    torch.save(open_clip.create_model(open_clip_architecture).state_dict(), tmp_path / "weights.pt")
    quick = ClipViT(replace(IMAGE, activation="quick_gelu", heads=2))
    with pytest.raises(UserError) as caught:
        fill_image_tower(quick, f"open_clip:{open_clip_architecture}/{tmp_path / 'weights.pt'}")
    assert "hidden_act is 'gelu', the model has 'quick_gelu'" in str(caught.value)
    assert "num_attention_heads is 4, the model has 2" in str(caught.value)
    save_clip(tmp_path / "clip", layer_norm_eps=1e-3)
    with pytest.raises(UserError, match="layer_norm_eps is 0.001, the model has 1e-05"):
        fill_image_tower(ClipViT(IMAGE), str(tmp_path / "clip"))
    save_deberta(tmp_path / "deberta", pos_att_type=["c2p"])
    with pytest.raises(UserError, match="pos_att_type is "):
        fill_text_tower(DebertaEncoder(TEXT), str(tmp_path / "deberta"))


@pytest.mark.parametrize(
    ("config", "changes"),
    [(TEXT, {}), (replace(TEXT, conv_kernel=3, conv_activation="gelu"), {"conv_kernel_size": 3, "conv_act": "gelu"})],
    ids=["v3", "v2"],
)
def test_a_deberta_gives_its_own_states(config: DebertaConfig, changes: dict[str, object], tmp_path: Path) -> None:
    deberta = save_deberta(tmp_path, **changes)
    tower = DebertaEncoder(config).eval()
    report = fill_text_tower(tower, str(tmp_path))
    ids, mask = torch.randint(5, 60, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    expected = deberta(ids, mask.long()).last_hidden_state
    torch.testing.assert_close(tower(ids, mask).states[mask], expected[mask])
    assert report.tensors == len(tower.state_dict())


def test_a_tower_of_another_width_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path, hidden_size=16)
    with pytest.raises(UserError, match="model.image_init: .* does not fit model.architecture"):
        fill_image_tower(ClipViT(IMAGE), str(tmp_path))


def test_a_model_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing-here cannot be loaded"):
        fill_text_tower(DebertaEncoder(TEXT), str(tmp_path / "nothing-here"))
    with pytest.raises(UserError, match="open_clip has no model 'ViT-Z-9'"):
        fill_image_tower(ClipViT(IMAGE), "open_clip:ViT-Z-9/openai")
    with pytest.raises(UserError, match="names no weights; add /TAG or /FILE"):
        fill_image_tower(ClipViT(IMAGE), "open_clip:ViT-B-16")


def test_a_key_that_the_table_does_not_name_is_an_error() -> None:
    with pytest.raises(UserError, match="1 tensors that are not known here: surprise"):
        rename({"surprise": torch.zeros(1)}, OPEN_CLIP_VISUAL, "a file")


def damage(folder: Path, key: str) -> None:
    """Rename a tensor of a saved model; transformers would draw its own in its place."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({name + "_" * (name == key): value for name, value in weights.items()}, file, {"format": "pt"})


def test_a_text_tower_without_one_of_its_tensors_is_refused(tmp_path: Path) -> None:
    save_deberta(tmp_path)
    key = "encoder.layer.0.attention.self.query_proj.weight"
    damage(tmp_path, key)
    with pytest.raises(UserError, match=f"{key} is missing"):
        fill_text_tower(DebertaEncoder(TEXT), str(tmp_path))


def test_an_image_tower_without_one_of_its_tensors_is_refused(tmp_path: Path) -> None:
    save_clip(tmp_path)
    file = tmp_path / "model.safetensors"
    key = next(name for name in load_file(file) if name.endswith("layers.1.mlp.fc1.weight"))
    damage(tmp_path, key)
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.fc1\.weight is missing"):
        fill_image_tower(ClipViT(IMAGE), str(tmp_path))


@pytest.mark.parametrize("answer", ["y", "n"])
def test_code_of_a_towers_folder_is_neither_run_nor_asked_about(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, asked, folder = tmp_path / "ran", list[object](), tmp_path / "trapped"
    folder.mkdir()
    (folder / "trap.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Config: ...\n")
    code = {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "trap", "auto_map": code}))

    def reply(*question: object) -> str:
        asked.append(question)
        return answer

    monkeypatch.setattr("builtins.input", reply)
    with pytest.raises(UserError, match="trapped cannot be loaded"):
        fill_text_tower(DebertaEncoder(TEXT), str(folder))
    with pytest.raises(UserError, match="trapped cannot be loaded"):
        fill_image_tower(ClipViT(IMAGE), str(folder))
    assert not asked
    assert not ran.exists()
