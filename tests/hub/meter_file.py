"""A tiny METER checkpoint, its names written out here and not taken from the code under test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from tests.hub.published import layer, norm

WORDS, POSITIONS, WIDTH, TEXT, IMAGE = 60, 40, 8, 12, 20  # of vocabulary, fusion, text encoder, image encoder
SIZE, PATCH, ANSWERS = 32, 8, 5
SWIN: dict[str, Any] = {"patch_size": 2, "embed_dim": 8, "depths": [1, 2, 2], "num_heads": [1, 2, 4]}  # stride 8
Shapes = dict[str, tuple[int, ...]]


def text_shapes(words: int, segments: int) -> Shapes:
    """Return the shapes of a RoBERTa (one segment) or BERT (two), with the pooler that nothing reads."""
    root = "text_transformer"
    shapes: Shapes = {
        f"{root}.embeddings.word_embeddings.weight": (words, TEXT),
        f"{root}.embeddings.position_embeddings.weight": (POSITIONS, TEXT),
        f"{root}.embeddings.token_type_embeddings.weight": (segments, TEXT),
        **norm(f"{root}.embeddings.LayerNorm", TEXT),
        **layer(f"{root}.pooler.dense", TEXT, TEXT),
    }
    for number in range(2):
        block = f"{root}.encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= layer(f"{block}.attention.{part}", TEXT, TEXT)
        shapes |= norm(f"{block}.attention.output.LayerNorm", TEXT) | norm(f"{block}.output.LayerNorm", TEXT)
        shapes |= layer(f"{block}.intermediate.dense", 24, TEXT) | layer(f"{block}.output.dense", TEXT, 24)
    return shapes


def clip_shapes() -> Shapes:
    """Return the shapes of CLIP's image tower, and of what is left of its text tower, which nothing reads."""
    root = "vit_model.visual"
    shapes: Shapes = {
        "vit_model.positional_embedding": (9, 16),
        "vit_model.token_embedding.weight": (30, 16),
        **norm("vit_model.ln_final", 16),
        f"{root}.class_embedding": (IMAGE,),
        f"{root}.positional_embedding": ((SIZE // PATCH) ** 2 + 1, IMAGE),
        f"{root}.conv1.weight": (IMAGE, 3, PATCH, PATCH),
        **norm(f"{root}.ln_pre", IMAGE),
        **norm(f"{root}.ln_post", IMAGE),
    }
    for number in range(2):
        block = f"{root}.transformer.resblocks.{number}"
        shapes |= {f"{block}.attn.in_proj_weight": (3 * IMAGE, IMAGE), f"{block}.attn.in_proj_bias": (3 * IMAGE,)}
        shapes |= layer(f"{block}.attn.out_proj", IMAGE, IMAGE)
        shapes |= norm(f"{block}.ln_1", IMAGE) | norm(f"{block}.ln_2", IMAGE)
        shapes |= layer(f"{block}.mlp.c_fc", 32, IMAGE) | layer(f"{block}.mlp.c_proj", IMAGE, 32)
    return shapes


def fusion_shapes(image: int, types: int) -> Shapes:
    """Return the shapes of what joins the encoders."""
    shapes: Shapes = {"token_type_embeddings.weight": (types, WIDTH)}
    for side, width in (("text", TEXT), ("image", image)):
        shapes |= layer(f"cross_modal_{side}_transform", WIDTH, width)
        shapes |= layer(f"cross_modal_{side}_pooler.dense", WIDTH, WIDTH)
        for number in range(2):
            block = f"cross_modal_{side}_layers.{number}"
            for attention in ("attention", "crossattention"):
                for part in ("self.query", "self.key", "self.value", "output.dense"):
                    shapes |= layer(f"{block}.{attention}.{part}", WIDTH, WIDTH)
                shapes |= norm(f"{block}.{attention}.output.LayerNorm", WIDTH)
            shapes |= layer(f"{block}.intermediate.dense", 16, WIDTH) | layer(f"{block}.output.dense", WIDTH, 16)
            shapes |= norm(f"{block}.output.LayerNorm", WIDTH)
    return shapes


def head_shapes(head: str, words: int) -> Shapes:
    """Return the shapes of a head."""
    if head == "itm_score":
        return layer("itm_score.fc", 2, 2 * WIDTH)
    if head == "rank_output":
        return layer("rank_output", 1, 2 * WIDTH)
    if head == "mlm_score":
        shapes: Shapes = {"mlm_score.decoder.weight": (words, WIDTH), "mlm_score.bias": (words,)}
        dense, after = layer("mlm_score.transform.dense", WIDTH, WIDTH), norm("mlm_score.transform.LayerNorm", WIDTH)
        return shapes | dense | after
    classes = {"vqa_classifier": ANSWERS, "snli_classifier": 3, "nlvr2_classifier": 2}[head]
    inputs = 4 * WIDTH if head == "nlvr2_classifier" else 2 * WIDTH
    first, last = layer(f"{head}.0", 2 * WIDTH, inputs), layer(f"{head}.3", classes, 2 * WIDTH)
    return first | norm(f"{head}.1", 2 * WIDTH) | last


def drawn(shapes: Shapes) -> dict[str, Tensor]:
    """Draw weights; those of norms lie around 1."""
    random = torch.Generator().manual_seed(0)
    weights = {key: 0.3 * torch.randn(shape, generator=random) for key, shape in sorted(shapes.items())}
    is_norm = re.compile(r".*(LayerNorm|ln_\w+|_classifier\.1)\.weight")
    return {key: value + 1 if is_norm.fullmatch(key) else value for key, value in weights.items()}


def meter_weights(*heads: str, words: int = WORDS, types: int = 2, segments: int = 1) -> dict[str, Tensor]:
    """Draw a METER of CLIP and RoBERTa (or BERT, with two segments) with these heads."""
    shapes = text_shapes(words, segments) | clip_shapes() | fusion_shapes(IMAGE, types)
    for head in heads:
        shapes |= head_shapes(head, words)
    return drawn(shapes) | {"text_transformer.embeddings.position_ids": torch.arange(POSITIONS)[None]}


def make_swin(size: int = SIZE) -> Any:  # noqa: ANN401 (a model of timm)
    """Make timm's Swin with METER's window: as many tokens a side as the last stage has."""
    torch.manual_seed(0)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=size, window_size=size // 8, num_classes=0, global_pool="", **SWIN
    )
    for name, parameter in swin.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.1)
    return swin.eval()


def swin_weights(*heads: str) -> dict[str, Tensor]:
    """Draw a METER of Swin: patches are merged at the end of a stage there, and two kinds of buffers are stored."""
    swin, weights = make_swin(), {}
    for key, value in swin.state_dict().items():
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        weights[".".join(["vit_model", *parts])] = value
    for stage, layers in enumerate(swin.layers):
        for number, block in enumerate(layers.blocks):
            root = f"vit_model.layers.{stage}.blocks.{number}"
            weights[f"{root}.attn.relative_position_index"] = block.attn.relative_position_index
            if block.attn_mask is not None:
                weights[f"{root}.attn_mask"] = block.attn_mask
    shapes = text_shapes(WORDS, 1) | fusion_shapes(int(swin.num_features), 2)
    for head in heads:
        shapes |= head_shapes(head, WORDS)
    return weights | drawn(shapes) | {"text_transformer.embeddings.position_ids": torch.arange(POSITIONS)[None]}


def is_dead(key: str) -> bool:
    """Tell what METER's files hold and nothing reads."""
    return key.startswith(
        ("text_transformer.pooler.", "vit_model.positional_", "vit_model.ln_final.", "vit_model.token_embedding.")
    ) or key.endswith(("relative_position_index", "attn_mask"))


def write_file(file: Path, weights: dict[str, Tensor], **options: object) -> Path:
    """Write a checkpoint as Lightning 1.3 does; of ``options`` those that a fine-tuned file has are another run's."""
    config = {"num_heads": 2, "drop_rate": 0.1, "hidden_size": WIDTH, "image_size": 576, "patch_size": 32, **options}
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": weights, "hyper_parameters": {"config": config}, "epoch": 3, "global_step": 100}
    torch.save({**content, "pytorch-lightning_version": "1.3.2", "callbacks": {}}, file)
    return file
