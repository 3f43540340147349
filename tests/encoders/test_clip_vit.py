"""How an image of a CLIP ViT is pooled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.errors import UserError
from vle_lightning.hub.vle_config import as_vle
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.presets import PRESETS
from vle_lightning.streams import Fused
from vle_lightning.tasks.nlvr import NLVRTask


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_fused_image_is_pooled_by_its_first_state_or_by_the_mean_of_all(pooling: Literal["first", "mean"]) -> None:
    tiny = PRESETS["tiny"]
    assert isinstance(tiny.image, ClipViTConfig)
    model = DualStream(replace(tiny, image=replace(tiny.image, pooling=pooling))).eval()
    pixels = torch.randn(2, 3, tiny.image.image_size, tiny.image.image_size)
    text = model.encode_text(torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool))
    fused: Fused = model.fuse(text, model.encode_image(pixels))
    state = fused.image.mean(1) if pooling == "mean" else fused.image[:, 0]
    torch.testing.assert_close(fused.pooled[:, model.width :], model.image_pooler(state))


def test_vles_layout_has_no_place_for_a_mean(tmp_path: Path) -> None:
    tiny = PRESETS["tiny"]
    assert isinstance(tiny.image, ClipViTConfig)
    config = replace(tiny, image=replace(tiny.image, pooling="mean"))
    with pytest.raises(UserError, match=r"image\.pooling \(mean\); export it in ours"):
        as_vle(config)
    task = NLVRTask(config)
    task.save_pretrained(tmp_path, layout="own")
    assert NLVRTask.from_pretrained(tmp_path).model.config == config
