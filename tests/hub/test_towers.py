"""Towers filled from transformers and open_clip agree with those libraries' own outputs."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, DebertaV2Config, DebertaV2Model

from vle_lightning.encoders.image import ImageConfig, ImageEncoder
from vle_lightning.encoders.text import TextConfig, TextEncoder
from vle_lightning.errors import UserError
from vle_lightning.hub.keymap import rename
from vle_lightning.hub.towers import OPEN_CLIP_VISUAL, fill_image_tower, fill_text_tower, split_projections

IMAGE = ImageConfig(image_size=32, patch_size=8, width=32, layers=2, heads=4, intermediate=64, activation="gelu")


def test_a_transformers_clip_gives_its_own_states(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        hidden_act="gelu",
    )  # fmt: skip
    clip = CLIPVisionModel(config).eval()
    clip.save_pretrained(tmp_path)
    tower = ImageEncoder(IMAGE).eval()
    report = fill_image_tower(tower, str(tmp_path))
    pixels = torch.randn(2, 3, 32, 32)
    output = clip(pixels)
    torch.testing.assert_close(tower(pixels).states[:, 0], output.pooler_output)
    assert report.tensors == len(tower.state_dict())


def test_an_open_clip_tower_gives_its_own_states() -> None:
    torch.manual_seed(0)
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={
            "image_size": 32,
            "patch_size": 8,
            "width": 32,
            "layers": 2,
            "head_width": 8,
            "mlp_ratio": 2.0,
        },
        text_cfg={"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    tower = ImageEncoder(IMAGE).eval()
    tower.load_state_dict(rename(split_projections(clip.visual.state_dict()), OPEN_CLIP_VISUAL, "open_clip"))
    pixels = torch.randn(2, 3, 32, 32)
    clip.visual.output_tokens = True
    _, patches = clip.visual(pixels)
    torch.testing.assert_close(tower(pixels).states[:, 1:], patches, atol=5e-6, rtol=1e-5)


def test_a_deberta_gives_its_own_states(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        type_vocab_size=0, relative_attention=True, position_biased_input=False, pos_att_type=["p2c", "c2p"],
        share_att_key=True, norm_rel_ebd="layer_norm", position_buckets=16, max_position_embeddings=64,
    )  # fmt: skip
    deberta = DebertaV2Model(config).eval()
    deberta.save_pretrained(tmp_path)
    tower = TextEncoder(TextConfig(60, 32, 2, 4, 64, position_buckets=16, max_positions=64)).eval()
    fill_text_tower(tower, str(tmp_path))
    ids, mask = torch.randint(5, 60, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    torch.testing.assert_close(tower(ids, mask).states, deberta(ids, mask).last_hidden_state)


def test_a_tower_of_another_width_is_refused(tmp_path: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, patch_size=8
    )
    CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model.image_init: .* does not fit model.architecture"):
        fill_image_tower(ImageEncoder(IMAGE), str(tmp_path))


def test_a_model_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing-here cannot be loaded"):
        fill_text_tower(TextEncoder(TextConfig(60, 32, 1, 4, 64)), str(tmp_path / "nothing-here"))
    with pytest.raises(UserError, match="open_clip has no model 'ViT-Z-9'"):
        fill_image_tower(ImageEncoder(IMAGE), "open_clip:ViT-Z-9/openai")


def test_a_key_that_the_table_does_not_name_is_an_error() -> None:
    with pytest.raises(UserError, match="1 tensors that are not known here: surprise"):
        rename({"surprise": torch.zeros(1)}, OPEN_CLIP_VISUAL, "a file")
