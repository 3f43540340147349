"""METER's presets have the published sizes, and cost what torch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.factories import dual
from vle_lightning.flops import encoder_flops, run_part
from vle_lightning.hub.architecture import read_architecture
from vle_lightning.models.backbone import EncoderCall
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.presets import PRESETS

POOLER = 768 * 768 + 768  # of RoBERTa, which METER stores and nobody reads
DEAD_CLIP = 49_408 * 512 + 77 * 512 + 2 * 512  # of CLIP's text tower: words, positions, last norm
TEXT = {"kind": "hf_text", "vocab_size": 60, "width": 16, "layers": 2, "heads": 2, "intermediate": 32}
CLIP = {"kind": "clip_vit", "image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "intermediate": 64}
SWIN: dict[str, Any] = {
    "kind": "timm_image", "name": "swin_tiny_patch4_window7_224", "image_size": 32, "pooling": "mean",
    "options": {"patch_size": 2, "embed_dim": 8, "depths": [1, 2, 2], "num_heads": [1, 2, 4], "window_size": 4},
}  # fmt: skip
FUSION = {"width": 16, "layers": 2, "heads": 2, "intermediate": 64, "token_types": 2}


def meta(preset: str) -> DualStream:
    with torch.device("meta"):
        return dual(PRESETS[preset].build())


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_presets_count_as_published() -> None:
    clip, swin = meta("meter-clip16-roberta"), meta("meter-swin-roberta")
    assert (size(clip), size(clip.image), size(clip.text)) == (318_650_112, 78_809_856, 124_645_632 - POOLER)
    assert size(clip) + POOLER == 319_240_704  # the trunk
    assert size(clip) + POOLER + DEAD_CLIP == 344_578_048  # the 345M that VLE's README says
    assert (size(swin), size(swin.image)) == (327_506_040 - POOLER, 86_878_584)


@pytest.mark.parametrize(
    ("kind", "image"),
    [("modernbert", CLIP), ("roberta", CLIP), ("bert", SWIN)],
)
@pytest.mark.slow  # the quick ones are in test_flops.py, and in test_every_composition.py for other encoders
def test_what_is_counted_without_values_is_what_a_real_pass_does(kind: str, image: dict[str, Any]) -> None:
    config = read_architecture({"text": {**TEXT, "type": kind}, "image": image, "fusion": FUSION})
    states = 1 + 16 if image is CLIP else 16
    for call in (
        EncoderCall("text", (3, 7)),
        EncoderCall("image", (2, 32, 32)),
        EncoderCall("fusion", (3, 7, states)),
        EncoderCall("fusion", (3, 7, states, 1, 1, 0, 1, 2, 4, 1, states)),
    ):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run_part(config.build(), call).sum().backward()
        assert encoder_flops(config, "none", call) == counter.get_total_flops() > 0
