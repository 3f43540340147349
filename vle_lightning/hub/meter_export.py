"""The way out to METER's layout: the file that its code loads, of models that its code computes alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.hf_text import HFTextConfig
from vle_lightning.encoders.timm_image import TimmImageConfig
from vle_lightning.errors import UserError
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.layouts import place
from vle_lightning.hub.meter import (
    FILE,
    FUSION_EPS,
    HEAD_WIDTH,
    METER_HEADS,
    OURS,
    TEXT_TYPES,
    in_order,
    published_name,
)
from vle_lightning.hub.towers import join_projections
from vle_lightning.models.backbone import Backbone, BackboneConfig
from vle_lightning.models.dual_stream import DualStreamConfig

SWIN_STRIDE = 32  # input pixels a side of a token of the last stage
CLIP_EPS = 1e-5  # of layer norms
TEXT_OPTIONS = {"type_vocab_size"}  # these the tensors tell
SWIN_OPTIONS = {"patch_size", "embed_dim", "depths", "num_heads", "window_size"}
LOSSES = ("itm", "mlm", "mpp", "vqa", "vcr", "vcr_qar", "nlvr2", "irtr", "contras", "snli")


def write_meter(folder: Path, encoder: Backbone, heads: Mapping[str, nn.Module]) -> None:
    """Write ``meter.ckpt``, which METER's ``load_path`` reads.

    What METER stores and nothing reads (the text pooler, CLIP's text tower) is left out: its loader goes on without.
    Of the text encoder METER knows no more than its name; its sizes stand beside METER's own options for our reader.

    Args:
        folder: is there.
        encoder: of METER's parts.
        heads: by our names; those without a place in METER are refused.

    Raises:
        UserError: a part, an option or a head has no place in METER's layout.
    """
    config = as_meter(encoder.config)
    if strange := sorted(heads.keys() - OURS.keys()):
        raise UserError(f"METER's layout has no place for the head {', '.join(strange)}; export it in ours")
    tensors = meter_tensors(encoder, heads)
    width = tensors["cross_modal_image_transform.weight"].shape[1]
    content = {"state_dict": tensors, "hyper_parameters": {"config": _options(config, width, heads)}}
    torch.save({**content, "epoch": 0, "global_step": 0, "pytorch-lightning_version": "1.3.2"}, folder / FILE)


def as_meter(config: BackboneConfig) -> DualStreamConfig:
    """Return the configuration, if METER's code has a place for each of its parts and would compute the same.

    Raises:
        UserError: a part is of another kind than METER's, or an option is what its code cannot be told.
    """
    kinds: dict[str, Any] = {
        "text": HFTextConfig,
        "image": (ClipViTConfig, TimmImageConfig),
        "fusion": CoAttentionConfig,
    }
    if not isinstance(config, DualStreamConfig) or config.decoder is not None:
        raise UserError("METER's layout holds a dual stream without a decoder; export it in ours")
    for name, kind in kinds.items():
        part = getattr(config, name)
        if not isinstance(part, kind):
            raise UserError(
                f"METER's layout has no place for model.architecture.{name} ({part.kind}); export it in ours"
            )
    if strange := _strange(config):
        raise UserError(f"METER's layout has no place for {', '.join(strange)}; export it in ours")
    return config


def _strange(config: DualStreamConfig) -> list[str]:
    """Name the options that no tensor shows and METER's code has fixed to other values."""
    text, image, fusion = config.text, config.image, config.fusion
    found: dict[str, object] = {}
    if isinstance(text, HFTextConfig):
        found |= {} if text.type in TEXT_TYPES else {"text.type": text.type}
        found |= {f"text.options.{name}": text.options[name] for name in text.options.keys() - TEXT_OPTIONS}
    if isinstance(image, TimmImageConfig):
        found |= {} if image.name.startswith("swin_") else {"image.name": image.name}
        found |= {f"image.options.{name}": image.options[name] for name in image.options.keys() - SWIN_OPTIONS}
        swins = {"pooling": "mean", "mean": [*IMAGENET_DEFAULT_MEAN], "std": [*IMAGENET_DEFAULT_STD]}
        given = {name: getattr(image, name) for name in swins}  # None: as the name has it, which is the same
        found |= {f"image.{name}": value for name, value in given.items() if value not in (None, swins[name])}
    if isinstance(image, ClipViTConfig):
        fixed = {"heads": max(image.width // HEAD_WIDTH, 1), "activation": "quick_gelu", "layer_norm_eps": CLIP_EPS}
        fixed |= {"pooling": "first"}
        ours = {name: getattr(image, name) for name in fixed}
        found |= {f"image.{name}": value for name, value in ours.items() if value != fixed[name]}
    if isinstance(fusion, CoAttentionConfig) and fusion.layer_norm_eps != FUSION_EPS:
        found["fusion.layer_norm_eps"] = fusion.layer_norm_eps
    return [f"model.architecture.{name} ({value})" for name, value in sorted(found.items())]


def meter_tensors(encoder: Backbone, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of an encoder and its heads by METER's names.

    Raises:
        UserError: METER has no name for one, or its code would make one of another shape.
    """
    own = {
        name: value
        for name, value in own_tensors({"": encoder}).tensors.items()
        if not name.endswith(("relative_position_index", "attn_mask"))
    }
    for name, head in heads.items():
        weights = in_order(dict(head.state_dict()), METER_HEADS[OURS[name]])
        own |= {f"{name}.{key}": value for key, value in weights.items()}
    named = place(own, published_name, "METER")
    _check_windows(named, encoder.config.image_size // encoder.layout.patch_size)
    positions = named["text_transformer.embeddings.position_embeddings.weight"].shape[0]
    named["text_transformer.embeddings.position_ids"] = torch.arange(positions)[None]
    return join_projections(named)


def _check_windows(named: Mapping[str, Tensor], side: int) -> None:
    """Raise a UserError unless all windows of a Swin have the grid of its last stage, ``side``, as METER makes them."""
    for name, value in named.items():
        if name.endswith("relative_position_bias_table") and len(value) != (2 * side - 1) ** 2:
            raise UserError(
                f"METER's Swin has windows of {side} x {side} tokens at this image size, but {name} is of another "
                "window; export it in ours"
            )


def _options(config: DualStreamConfig, image_width: int, heads: Mapping[str, nn.Module]) -> dict[str, Any]:
    text, image, fusion = config.text, config.image, config.fusion
    assert isinstance(text, HFTextConfig)
    window = f"swin_base_patch4_window{image.image_size // SWIN_STRIDE}_{image.image_size}"
    swin, patch = isinstance(image, TimmImageConfig), getattr(image, "patch_size", SWIN_STRIDE)
    names = {"itm_score": "itm", "mlm_score": "mlm", "vqa_classifier": "vqa", "nlvr2": "nlvr2", "snli_ve": "snli"}
    losses = [names.get(name, "irtr") for name in heads]
    return {
        "vit": window if swin else f"ViT-B/{patch}",
        "tokenizer": "roberta-base" if text.type == "roberta" else "bert-base-uncased",
        "image_size": image.image_size,
        "patch_size": patch,
        "resolution_before": image.image_size,
        "input_image_embed_size": image_width,
        "input_text_embed_size": text.width,
        "vocab_size": text.vocab_size,
        "hidden_size": fusion.width,
        "num_heads": fusion.heads,
        "num_layers": fusion.layers,
        "num_top_layer": fusion.layers,
        "mlp_ratio": fusion.intermediate // fusion.width,
        "drop_rate": fusion.dropout,
        "loss_names": {name: int(name in losses) for name in LOSSES},
        "text": {
            "model_type": text.type,
            "num_attention_heads": text.heads,
            "pad_token_id": text.pad_token_id,
            "layer_norm_eps": text.layer_norm_eps,
            "hidden_dropout_prob": text.dropout,
        },
    }
