"""Towers that start from published models: DeBERTa-v3 from transformers, CLIP ViT from transformers or open_clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import open_clip
from torch import Tensor
from transformers import AutoModel, CLIPVisionModel

from vle_lightning.encoders.image import ImageEncoder
from vle_lightning.encoders.text import TextEncoder
from vle_lightning.errors import UserError
from vle_lightning.hub.checkpoint import LoadReport, fill
from vle_lightning.hub.keymap import KeyMap, rename

Loaded = TypeVar("Loaded")
OPEN_CLIP = "open_clip:"  # prefix of open_clip:ARCHITECTURE/PRETRAINED, as in open_clip:ViT-B-16-quickgelu/openai

TRANSFORMERS_CLIP: KeyMap = {
    r"(?:vision_model\.)?embeddings\.position_ids": None,  # a buffer, 0, 1, 2, ...
    r"(?:vision_model\.)?embeddings\.patch_embedding\.weight": r"patch_embedding.weight",
    r"(?:vision_model\.)?embeddings\.class_embedding": r"class_embedding",
    r"(?:vision_model\.)?embeddings\.position_embedding\.weight": r"position_embedding.weight",
    r"(?:vision_model\.)?pre_layrnorm\.(.*)": r"pre_norm.\1",
    r"(?:vision_model\.)?post_layernorm\.(.*)": r"post_norm.\1",
    r"(?:vision_model\.)?(encoder\..*)": r"\1",
}
BLOCK = r"transformer\.resblocks\.(\d+)\."
OPEN_CLIP_VISUAL: KeyMap = {
    r"proj": None,  # to the contrastive space
    r"conv1\.weight": r"patch_embedding.weight",
    r"class_embedding": r"class_embedding",
    r"positional_embedding": r"position_embedding.weight",
    r"ln_pre\.(.*)": r"pre_norm.\1",
    r"ln_post\.(.*)": r"post_norm.\1",
    BLOCK + r"attn\.(q|k|v)_proj\.(.*)": r"encoder.layers.\1.self_attn.\2_proj.\3",
    BLOCK + r"attn\.out_proj\.(.*)": r"encoder.layers.\1.self_attn.out_proj.\2",
    BLOCK + r"ln_(1|2)\.(.*)": r"encoder.layers.\1.layer_norm\2.\3",
    BLOCK + r"mlp\.c_fc\.(.*)": r"encoder.layers.\1.mlp.fc1.\2",
    BLOCK + r"mlp\.c_proj\.(.*)": r"encoder.layers.\1.mlp.fc2.\2",
}


def fill_text_tower(encoder: TextEncoder, source: str) -> LoadReport:
    """Fill the text tower from a transformers DeBERTa-v2 or -v3 name or folder.

    Raises:
        UserError: the model cannot be had or does not fit the configured sizes.
    """
    weights = _download(source, lambda: AutoModel.from_pretrained(source).state_dict())
    return fill(encoder, {f"model.{key}": value for key, value in weights.items()}, source, "model.text_init")


def fill_image_tower(encoder: ImageEncoder, source: str) -> LoadReport:
    """Fill the image tower from a transformers CLIP (name or folder) or an open_clip model.

    Args:
        encoder: the tower; its position table may be of another image size, it is resized then.
        source: ``openai/clip-vit-base-patch16``, or ``open_clip:ViT-B-16-quickgelu/openai`` (the part behind the
            slash is what open_clip calls pretrained: a tag or a local file).

    Raises:
        UserError: the model cannot be had or does not fit the configured sizes.
    """
    if source.startswith(OPEN_CLIP):
        architecture, _, pretrained = source.removeprefix(OPEN_CLIP).partition("/")
        if architecture not in open_clip.list_models():
            raise UserError(f"model.image_init: open_clip has no model '{architecture}' (see open_clip.list_models())")
        model = _download(source, lambda: open_clip.create_model(architecture, pretrained=pretrained or None))
        weights = rename(split_projections(model.visual.state_dict()), OPEN_CLIP_VISUAL, source)
    else:
        state = _download(source, lambda: CLIPVisionModel.from_pretrained(source).state_dict())
        weights = rename(state, TRANSFORMERS_CLIP, source)
    return fill(encoder, weights, source, "model.image_init")


def split_projections(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split each fused ``in_proj_weight`` (3D, D) and ``in_proj_bias`` (3D,) into query, key and value."""
    split = {}
    for key, value in weights.items():
        if ".in_proj_" not in key:
            split[key] = value
            continue
        stem, kind = key.rsplit(".in_proj_", 1)
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            split[f"{stem}.{letter}_proj.{kind}"] = part
    return split


def _download(source: str, build: Callable[[], Loaded]) -> Loaded:
    try:
        return build()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{source} cannot be loaded (no such model, or no network?): {error}") from error
