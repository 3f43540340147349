"""Every composition of text encoder, image encoder, fusion and decoder, at a tiny width."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from vle_lightning.hub.architecture import read_architecture
from vle_lightning.models.backbone import Backbone

WIDTH, TOKEN_TYPES = 16, 8
LAYER = {"width": WIDTH, "layers": 1, "heads": 2, "intermediate": 32, "dropout": 0.0}
TEXT = {**LAYER, "vocab_size": 200, "max_positions": 40}
HF_TEXT = {"kind": "hf_text", "pad_token_id": 0, **TEXT}

TEXTS: dict[str, dict[str, Any]] = {
    "deberta": {"kind": "deberta", "position_buckets": 8, **TEXT},
    "roberta": {**HF_TEXT, "type": "roberta"},
    "bert": {**HF_TEXT, "type": "bert"},
    "modernbert": {**HF_TEXT, "type": "modernbert"},
}
IMAGES: dict[str, dict[str, Any]] = {  # of 48 pixels, 6 x 6 patches
    "clip": {"kind": "clip_vit", "image_size": 48, "patch_size": 8, **LAYER},
    "swin": {
        "kind": "timm_image",
        "name": "swin_tiny_patch4_window7_224",
        "image_size": 48,
        "options": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
    },
    "siglip": {  # no class token
        "kind": "timm_image",
        "name": "vit_base_patch16_siglip_224",
        "image_size": 48,
        "options": {"patch_size": 8, "embed_dim": WIDTH, "depth": 1, "num_heads": 2},
    },
}
FUSIONS: dict[str, dict[str, Any]] = {
    "co": {"kind": "co_attention", "token_types": TOKEN_TYPES, **LAYER},
    "merged": {"kind": "merged_attention", "token_types": TOKEN_TYPES, **LAYER},
}
DECODERS: dict[str, dict[str, Any] | None] = {
    "encoder": None,
    "decoder": {"layers": 1, "heads": 2, "intermediate": 32, "dropout": 0.0, "max_positions": 40},
}


class Composition(NamedTuple):
    """One of each axis, by name."""

    text: str
    image: str
    fusion: str
    decoder: str

    def __str__(self) -> str:
        return "-".join(self)

    def plain(self) -> dict[str, Any]:
        """Return what an experiment file would hold."""
        return {
            "text": TEXTS[self.text],
            "image": IMAGES[self.image],
            "fusion": FUSIONS[self.fusion],
            "decoder": DECODERS[self.decoder],
            "init_std": 0.05,
        }

    def build(self) -> Backbone:
        """Make the backbone."""
        return read_architecture(self.plain()).build()


ALL = [Composition(*names) for names in product(TEXTS, IMAGES, FUSIONS, DECODERS)]
FEW = [  # each value of each axis, for what takes longer
    Composition("deberta", "swin", "merged", "encoder"),
    Composition("roberta", "siglip", "co", "decoder"),
    Composition("bert", "clip", "merged", "decoder"),
    Composition("modernbert", "swin", "co", "encoder"),
]
