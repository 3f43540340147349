"""Tiny checkpoints of VLMo and BEiT, their names written out here and not taken from the code under test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.hub.published import layer, norm

WORDS, WIDTH, LAYERS, HEADS, INNER, ANSWERS = 60, 16, 3, 4, 32, 5
SIZE, PATCH, KNOWN, TEXTS = 32, 8, 20, 12  # pixels, pixels; tokens of the relative table, of the text position table
SIDE = SIZE // PATCH
IMAGE_ROWS = (2 * SIDE - 1) ** 2 + 3
Shapes = dict[str, tuple[int, ...]]
HEADS_OF = {  # published files
    "stage 3": ("mlm_score", "itm_score", "itc", "itc_vl"),
    "vqa": ("vqa_classifier",),
    "nlvr2": ("nlvr2_classifier",),
    "retrieval": ("itc",),
}
INDICES = ("relative_position_index", "text_relative_position_index", "text_imag_relative_position_index")


def head_shapes(head: str) -> Shapes:
    """Return the shapes of a head."""
    if head == "itm_score":
        return layer("itm_score.fc", 2, WIDTH)
    if head in ("itc", "itc_vl"):
        vl = head.removeprefix("itc")
        shapes: Shapes = {f"itc{vl}_{side}_proj.fc.weight": (WIDTH, WIDTH) for side in ("text", "image")}
        return {**shapes, f"logit{vl}_scale": ()}
    if head == "mlm_score":
        words: Shapes = {"mlm_score.decoder.weight": (WORDS, WIDTH), "mlm_score.bias": (WORDS,)}
        return words | layer("mlm_score.transform.dense", WIDTH, WIDTH) | norm("mlm_score.transform.LayerNorm", WIDTH)
    classes = {"vqa_classifier": ANSWERS, "nlvr2_classifier": 2}[head]
    inputs = 2 * WIDTH if head == "nlvr2_classifier" else WIDTH
    first, last = layer(f"{head}.0", 2 * WIDTH, inputs), layer(f"{head}.3", classes, 2 * WIDTH)
    return first | norm(f"{head}.1", 2 * WIDTH) | last


def block_shapes(number: int, experts: tuple[str, ...], scaled: bool) -> Shapes:
    """Return the shapes of a block."""
    root = f"transformer.blocks.{number}"
    shapes: Shapes = {
        **norm(f"{root}.norm1", WIDTH),
        f"{root}.attn.q_bias": (WIDTH,),
        f"{root}.attn.v_bias": (WIDTH,),
        f"{root}.attn.qkv.weight": (3 * WIDTH, WIDTH),
        **layer(f"{root}.attn.proj", WIDTH, WIDTH),
    }
    if scaled:
        shapes |= {f"{root}.gamma_1": (WIDTH,), f"{root}.gamma_2": (WIDTH,)}
    for expert in experts:
        shapes |= norm(f"{root}.norm2_{expert}", WIDTH)
        shapes |= layer(f"{root}.mlp_{expert}.fc1", INNER, WIDTH) | layer(f"{root}.mlp_{expert}.fc2", WIDTH, INNER)
    return shapes


def vlmo_weights(
    *heads: str, pairs: int = 1, types: int = 2, relative: bool = True, texts: int = TEXTS, size: int = SIZE
) -> dict[str, Tensor]:
    """Draw a VLMo with so many blocks for pairs and these heads, without indices, as today's code saves it."""
    side = size // PATCH
    shapes: Shapes = {
        "text_embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "text_embeddings.position_embeddings.weight": (texts, WIDTH),
        "text_embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm("text_embeddings.LayerNorm", WIDTH),
        "token_type_embeddings.weight": (types, WIDTH),
        "transformer.cls_token": (1, 1, WIDTH),
        "transformer.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "transformer.patch_embed.proj.bias": (WIDTH,),
        **norm("transformer.norm", WIDTH),
        **layer("pooler.dense", WIDTH, WIDTH),
    }
    if relative:
        rows = (2 * side - 1) ** 2 + 3 + 2 * KNOWN + 2
        shapes["relative_position_bias_table"] = (rows, LAYERS * HEADS)
    else:
        shapes["transformer.pos_embed"] = (1, side**2 + 1, WIDTH)
    for number in range(LAYERS):
        experts = ("text", "imag", "vl") if number >= LAYERS - pairs else ("text", "imag")
        shapes |= block_shapes(number, experts, relative)
    for head in heads:
        shapes |= head_shapes(head)
    return drawn(shapes) | {"text_embeddings.position_ids": torch.arange(texts)[None]}


def drawn(shapes: Shapes) -> dict[str, Tensor]:
    """Draw weights; those of norms lie around 1."""
    random = torch.Generator().manual_seed(0)
    weights = {key: 0.3 * torch.randn(shape, generator=random) for key, shape in sorted(shapes.items())}
    is_norm = re.compile(r".*(LayerNorm|norm\d?\w*|_classifier\.1)\.weight")
    return {key: value + 1 if is_norm.fullmatch(key) else value for key, value in weights.items()}


def indices(texts: int = TEXTS, side: int = SIDE) -> dict[str, Tensor]:
    """Make the indices of VLMo's code, by its rules (the table in relative_bias.py), entry by entry."""
    images, rows = side**2 + 1, (2 * side - 1) ** 2 + 3
    end = rows + 2 * KNOWN + 2

    def of_images(query: int, key: int) -> int:
        if 0 in (query, key):
            return rows - (1 if query == key else 3 if query == 0 else 2)
        (y, x), (down, right) = divmod(query - 1, side), divmod(key - 1, side)
        return (y - down + side - 1) * (2 * side - 1) + x - right + side - 1

    def of_texts(query: int, key: int) -> int:
        if 0 in (query, key):
            return end - (1 if query == key else 3 if query == 0 else 2)
        return key - query + KNOWN - 2 + rows + 2

    def of_both(query: int, key: int) -> int:
        if query < texts and key < texts:
            return of_texts(query, key)
        if query >= texts and key >= texts:
            return of_images(query - texts, key - texts)
        return rows if query < texts else rows + 1

    lengths = dict(zip(INDICES, ((images, of_images), (texts, of_texts), (texts + images, of_both)), strict=True))
    return {
        name: torch.tensor([[find(query, key) for key in range(length)] for query in range(length)])
        for name, (length, find) in lengths.items()
    }


def options() -> dict[str, Any]:
    """Return what a file of a run holds beside the weights: tokens of its table are not the published 196."""
    return {"config": {"max_text_len_of_initckpt": KNOWN, "max_text_len": TEXTS}, "arch": {"num_heads": HEADS}}


FORMS: dict[str, Any] = {  # how the tensors lie in a file
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "module": lambda weights: {"module": {f"module.{key}": value for key, value in weights.items()}, "step": 7},
    "model": lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
}


def write_file(file: Path, weights: dict[str, Tensor], form: str = "state_dict") -> Path:
    """Write a checkpoint of a run; of a plain one the indices have to tell the size of the table."""
    content = FORMS[form](weights)
    torch.save(content if form == "plain" else {**content, "hyper_parameters": options()}, file)
    return file


def beit_weights(tables: str, size: int = SIZE, inputs: str = "tuned") -> dict[str, Tensor]:
    """Draw a BEiT with a table for each block (``each``) or one for all (``shared``), after tuning or before."""
    rows = (2 * (size // PATCH) - 1) ** 2 + 3
    shapes: Shapes = {
        "cls_token": (1, 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for number in range(LAYERS):
        block = block_shapes(number, ("imag",), True)
        shapes |= {re.sub(r"transformer\.|_imag", "", key): shape for key, shape in block.items()}
        if tables == "each":
            shapes[f"blocks.{number}.attn.relative_position_bias_table"] = (rows, HEADS)
    if tables == "shared":
        shapes["rel_pos_bias.relative_position_bias_table"] = (rows, HEADS)
    if inputs == "tuned":
        shapes |= norm("fc_norm", WIDTH) | layer("head", 7, WIDTH)
    else:
        shapes |= norm("norm", WIDTH) | layer("lm_head", 50, WIDTH) | {"mask_token": (1, 1, WIDTH)}
    return drawn(shapes)
