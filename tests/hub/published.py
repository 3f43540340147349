"""A tiny checkpoint in the published layout, its names written out here and not taken from the code under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WORDS, WIDTH, TEXT, IMAGE = 40, 8, 12, 16  # of vocabulary, fusion, text tower, image tower
PATCHES, TYPES, BUCKETS, LENGTH = 16, 6, 8, 32  # a picture of 32 px, patches of 8
ANSWERS = 3


def published_config(**changes: object) -> dict[str, Any]:
    """Return a config.json with what the authors' code reads."""
    text = {
        "model_type": "deberta-v2", "vocab_size": WORDS, "hidden_size": TEXT, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": LENGTH, "type_vocab_size": 0,
        "layer_norm_eps": 1e-7, "relative_attention": True, "max_relative_positions": -1, "position_buckets": BUCKETS,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False, "pos_att_type": "p2c|c2p",
        "_name_or_path": "kept as it is",
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": IMAGE, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_act": "quick_gelu", "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-5,
        "projection_dim": 24,
    }  # fmt: skip
    return {
        "model_type": "vle", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12, "num_token_types": TYPES, "initializer_range": 0.02, "text_config": text,
        "vision_config": vision, **changes,
    }  # fmt: skip


def layer(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a linear layer."""
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def text_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the text tower."""
    block, root = "vle.text_model.encoder.layer.0", "vle.text_model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}.embeddings.word_embeddings.weight": (WORDS, TEXT),
        f"{root}.encoder.rel_embeddings.weight": (2 * BUCKETS, TEXT),
        **norm(f"{root}.embeddings.LayerNorm", TEXT),
        **norm(f"{root}.encoder.LayerNorm", TEXT),
    }
    for part in ("query_proj", "key_proj", "value_proj"):
        shapes |= layer(f"{block}.attention.self.{part}", TEXT, TEXT)
    shapes |= layer(f"{block}.attention.output.dense", TEXT, TEXT) | norm(f"{block}.attention.output.LayerNorm", TEXT)
    shapes |= layer(f"{block}.intermediate.dense", 24, TEXT) | layer(f"{block}.output.dense", TEXT, 24)
    return shapes | norm(f"{block}.output.LayerNorm", TEXT)


def image_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the image tower; the misspelt pre_layrnorm is CLIP's."""
    root = "vle.vision_model.vision_model"
    block = f"{root}.encoder.layers.0"
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}.embeddings.class_embedding": (IMAGE,),
        f"{root}.embeddings.patch_embedding.weight": (IMAGE, 3, 8, 8),
        f"{root}.embeddings.position_embedding.weight": (PATCHES + 1, IMAGE),
        **norm(f"{root}.pre_layrnorm", IMAGE),
        **norm(f"{root}.post_layernorm", IMAGE),
    }
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= layer(f"{block}.self_attn.{part}", IMAGE, IMAGE)
    shapes |= norm(f"{block}.layer_norm1", IMAGE) | norm(f"{block}.layer_norm2", IMAGE)
    return shapes | layer(f"{block}.mlp.fc1", 32, IMAGE) | layer(f"{block}.mlp.fc2", IMAGE, 32)


def fusion_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of what joins the towers."""
    shapes: dict[str, tuple[int, ...]] = {"vle.token_type_embeddings.weight": (TYPES, WIDTH)}
    for side, width in (("text", TEXT), ("image", IMAGE)):
        shapes |= layer(f"vle.{side}_projection_layer", WIDTH, width)
        shapes |= layer(f"vle.cross_modal_{side}_pooler.dense", WIDTH, WIDTH)
        block = f"vle.cross_modal_{side}_layers.0"
        for attention in ("attention", "crossattention"):
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                shapes |= layer(f"{block}.{attention}.{part}", WIDTH, WIDTH)
            shapes |= norm(f"{block}.{attention}.output.LayerNorm", WIDTH)
        shapes |= layer(f"{block}.intermediate.dense", 16, WIDTH) | layer(f"{block}.output.dense", WIDTH, 16)
        shapes |= norm(f"{block}.output.LayerNorm", WIDTH)
    return shapes


def classifier(name: str, width: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a head of four parts, of which GELU has no weights."""
    return layer(f"{name}.0", width, width) | norm(f"{name}.1", width) | layer(f"{name}.3", classes, width)


HEADS: dict[str, dict[str, tuple[int, ...]]] = {
    "itm_score": layer("itm_score.fc", 2, 2 * WIDTH),
    "pbc_classifier": classifier("pbc_classifier", WIDTH, 2),
    "mlm_score": {
        **layer("mlm_score.0", TEXT, WIDTH),
        **layer("mlm_score.1.predictions.transform.dense", TEXT, TEXT),
        **norm("mlm_score.1.predictions.transform.LayerNorm", TEXT),
        "mlm_score.1.predictions.bias": (WORDS,),
    },
    "vqa_classifier": classifier("vqa_classifier", 2 * WIDTH, ANSWERS),
    "vcr_q2a_logit": classifier("vcr_q2a_logit", 2 * WIDTH, 1),
    "vcr_qa2r_logit": classifier("vcr_qa2r_logit", 2 * WIDTH, 1),
}


def published_weights(*heads: str) -> dict[str, Tensor]:
    """Draw an encoder and these heads by their published names."""
    shapes = text_shapes() | image_shapes() | fusion_shapes()
    for head in heads:
        shapes |= HEADS[head]
    random = torch.Generator().manual_seed(0)
    weights = {key: 0.1 * torch.randn(shape, generator=random) for key, shape in sorted(shapes.items())}
    weights["vle.text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    weights["vle.vision_model.vision_model.embeddings.position_ids"] = torch.arange(PATCHES + 1)[None]
    return weights


def publish(folder: Path, weights: dict[str, Tensor], **changes: object) -> Path:
    """Write a published folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(published_config(**changes)))
    save_file(weights, folder / "model.safetensors")
    return folder
