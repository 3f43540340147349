"""Named compositions: each is a starting point, of which an experiment may change any part."""

from __future__ import annotations

from collections.abc import Mapping

from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.encoders.hf_text import HFTextConfig
from vle_lightning.encoders.timm_image import TimmImageConfig
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.models.backbone import BackboneConfig
from vle_lightning.models.dual_stream import DualStreamConfig
from vle_lightning.models.mome import MoMEConfig


def _small(
    width: int, text_layers: int, image_layers: int, fusion_layers: int, *, position_std: float | None = None
) -> DualStreamConfig:
    """Build a model for 48 px scenes: patches of 8 px, a vocabulary of at most 256 pieces."""
    return DualStreamConfig(
        DebertaConfig(256, width, text_layers, 4, 4 * width, position_buckets=16, max_positions=64, dropout=0.0),
        ClipViTConfig(48, 8, width, image_layers, 4, 4 * width, position_std=position_std),
        CoAttentionConfig(width, fusion_layers, 4, 4 * width, dropout=0.0, token_types=12),
        init_std=0.05,
    )


def _small_experts(width: int, layers: int, fusion_layers: int) -> MoMEConfig:
    """Build a VLMo for 48 px scenes: patches of 8 px, at most 256 pieces, texts of at most 64 tokens."""
    return MoMEConfig(
        image_size=48,
        patch_size=8,
        vocab_size=256,
        width=width,
        layers=layers,
        heads=4,
        intermediate=4 * width,
        fusion_layers=fusion_layers,
        text_positions=64,
        drop_path=0.0,
        init_std=0.05,
    )


ROBERTA = HFTextConfig(options={"type_vocab_size": 1})  # roberta-base
METER_FUSION = CoAttentionConfig(token_types=2)
SWIN = TimmImageConfig(384, "swin_base_patch4_window12_384", drop_path=0.1, pooling="mean")
PRESETS = {  # of two encoders and their fusion
    "tiny": _small(32, 1, 1, 1),  # for tests: builds in milliseconds
    "toy": _small(96, 2, 2, 4, position_std=0.3),  # for the embedded world; positions weigh as much as colours
    "vle-base": DualStreamConfig(),
    "vle-large": DualStreamConfig(
        DebertaConfig(width=1024, layers=24, heads=16, intermediate=4096),
        ClipViTConfig(patch_size=14, width=1024, layers=24, heads=16, intermediate=4096),
        CoAttentionConfig(width=1024, heads=16, intermediate=4096),
    ),
    # METER leaves out the last of CLIP's 12 blocks, which pools for the contrast (arXiv 2111.02387)
    "meter-clip16-roberta": DualStreamConfig(ROBERTA, ClipViTConfig(288, 16, layers=11), METER_FUSION),
    "meter-swin-roberta": DualStreamConfig(ROBERTA, SWIN, METER_FUSION),
}
EXPERTS = {  # VLMo (arXiv 2111.02358); base-plus is the code's alone
    "vlmo-tiny": _small_experts(32, 2, 1),  # for tests
    "vlmo-toy": _small_experts(96, 6, 2),  # for the embedded world
    "vlmo-base": MoMEConfig(),
    "vlmo-base-plus": MoMEConfig(
        width=544,
        layers=24,
        heads=16,
        intermediate=2176,
        fusion_layers=3,
        positions="absolute",
        layer_scale=None,
    ),
    "vlmo-large": MoMEConfig(width=1024, layers=24, heads=16, intermediate=4096, fusion_layers=3),
}
ALL_PRESETS: Mapping[str, BackboneConfig] = {**PRESETS, **EXPERTS}
