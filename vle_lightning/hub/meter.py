"""The layout of METER's published checkpoints (arXiv 2111.02387, zdou0830/METER): one table both ways, and the way in.

They are Lightning checkpoints of ``METERTransformerSS``: the weights under ``state_dict``, its options under
``hyper_parameters``. Sizes are read off the tensors, because the options of a fine-tuned file may be another run's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vle_lightning.encoders.base import ImageEncoderConfig, TextEncoderConfig
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.hf_text import HFTextConfig
from vle_lightning.encoders.timm_image import TimmImageConfig
from vle_lightning.errors import UserError
from vle_lightning.files import is_number
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.hub.keymap import KeyMap, invert, translate
from vle_lightning.hub.layouts import Sizes
from vle_lightning.hub.towers import split_projections
from vle_lightning.models.dual_stream import DualStreamConfig

FILE = "meter.ckpt"  # what an export is called
HEAD_WIDTH = 64  # of an attention head, in all published encoders
FUSION_EPS = 1e-12  # of layer norms
TEXT_TYPES = ("roberta", "bert")
CROSS = r"cross_modal_(text|image)_layers\.(\d+)\."
BLOCK = r"vit_model\.visual\.transformer\.resblocks\.(\d+)\."
METER_KEYS: KeyMap = {
    r"text_transformer\.embeddings\.position_ids": None,  # a buffer, 0, 1, 2, ...
    r"text_transformer\.pooler\..*": None,  # read by nobody, as the three of CLIP's text tower
    r"vit_model\.positional_embedding": None,
    r"vit_model\.ln_final\..*": None,
    r"vit_model\.token_embedding\.weight": None,
    r"text_transformer\.(.*)": r"text.model.\1",
    r"vit_model\.visual\.conv1\.weight": r"image.patch_embedding.weight",
    r"vit_model\.visual\.class_embedding": r"image.class_embedding",
    r"vit_model\.visual\.positional_embedding": r"image.position_embedding.weight",
    r"vit_model\.visual\.ln_pre\.(.*)": r"image.pre_norm.\1",
    r"vit_model\.visual\.ln_post\.(.*)": r"image.post_norm.\1",
    BLOCK + r"attn\.(q|k|v)_proj\.(.*)": r"image.encoder.layers.\1.self_attn.\2_proj.\3",
    BLOCK + r"attn\.out_proj\.(.*)": r"image.encoder.layers.\1.self_attn.out_proj.\2",
    BLOCK + r"ln_(1|2)\.(.*)": r"image.encoder.layers.\1.layer_norm\2.\3",
    BLOCK + r"mlp\.c_fc\.(.*)": r"image.encoder.layers.\1.mlp.fc1.\2",
    BLOCK + r"mlp\.c_proj\.(.*)": r"image.encoder.layers.\1.mlp.fc2.\2",
    r"vit_model\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index": None,  # buffers of Swin
    r"vit_model\.layers\.\d+\.blocks\.\d+\.attn_mask": None,
    # timm merges patches at the beginning of a stage, METER's Swin at the end of the one before
    r"vit_model\.layers\.0\.downsample\.(.*)": r"image.model.layers.1.downsample.\1",
    r"vit_model\.layers\.1\.downsample\.(.*)": r"image.model.layers.2.downsample.\1",
    r"vit_model\.layers\.2\.downsample\.(.*)": r"image.model.layers.3.downsample.\1",
    r"vit_model\.(patch_embed|norm|layers)\.(.*)": r"image.model.\1.\2",
    r"cross_modal_(text|image)_transform\.(.*)": r"\1_projection.\2",
    r"token_type_embeddings\.weight": r"token_types.weight",
    r"cross_modal_(text|image)_pooler\.(.*)": r"\1_pooler.\2",
    CROSS + r"attention\.self\.(query|key|value)\.(.*)": r"fusion.\1.\2.attention.\3.\4",
    CROSS + r"attention\.output\.dense\.(.*)": r"fusion.\1.\2.attention.output.\3",
    CROSS + r"attention\.output\.LayerNorm\.(.*)": r"fusion.\1.\2.attention.norm.\3",
    CROSS + r"crossattention\.self\.(query|key|value)\.(.*)": r"fusion.\1.\2.cross.\3.\4",
    CROSS + r"crossattention\.output\.dense\.(.*)": r"fusion.\1.\2.cross.output.\3",
    CROSS + r"crossattention\.output\.LayerNorm\.(.*)": r"fusion.\1.\2.cross.norm.\3",
    CROSS + r"intermediate\.dense\.(.*)": r"fusion.\1.\2.feed_forward.inner.\3",
    CROSS + r"output\.dense\.(.*)": r"fusion.\1.\2.feed_forward.output.\3",
    CROSS + r"output\.LayerNorm\.(.*)": r"fusion.\1.\2.feed_forward.norm.\3",
}
BACK = invert(METER_KEYS)
CLASSIFIER: KeyMap = {r"([013]\..*)": r"\1"}


class Head(NamedTuple):
    """A head of METER."""

    name: str  # of ours
    keys: KeyMap
    reversed: bool = False  # its classes stand in the opposite order here


METER_HEADS: dict[str, Head] = {
    "itm_score": Head("itm_score", {r"fc\.(.*)": r"\1"}),
    "mlm_score": Head(
        "mlm_score",
        {
            r"transform\.dense\.(.*)": r"transform.0.\1",
            r"transform\.LayerNorm\.(.*)": r"transform.2.\1",
            r"decoder\.weight": r"decoder.weight",
            r"bias": r"decoder.bias",
        },
    ),
    "vqa_classifier": Head("vqa_classifier", CLASSIFIER),
    "nlvr2_classifier": Head("nlvr2", CLASSIFIER, reversed=True),  # false, true there
    "snli_classifier": Head("snli_ve", CLASSIFIER, reversed=True),  # contradiction, neutral, entailment there
    "rank_output": Head("rank_output", {r"(weight|bias)": r"\1"}),
}
OURS = {head.name: theirs for theirs, head in METER_HEADS.items()}
LAST = ("3.weight", "3.bias")  # of a classifier: what has a row for each class


class METERWeights(NamedTuple):
    """The tensors of a METER checkpoint by their names here."""

    architecture: DualStreamConfig
    encoder: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]  # by our name, then by the name inside of our head
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def is_meter(weights: Iterable[str]) -> bool:
    """Are these the names of the tensors of a METER?"""
    return any(key.startswith("cross_modal_text_transform.") for key in weights)


def is_meter_config(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a METER with its encoders' sizes beside it?"""
    return {"config", "text", "vision"} <= config.keys()


def read_meter(weights: Mapping[str, Tensor], options: Mapping[str, Any], where: str) -> METERWeights:
    """Give the tensors of a METER checkpoint their names here, and read its sizes off them.

    Args:
        weights: ``state_dict``.
        options: METER's ``config``; with ``text``, transformers' configuration of the text encoder, where there is one.
        where: the file, for messages.

    Raises:
        UserError: a tensor that tells a size is missing.
    """
    if strange := [key for key in weights if not isinstance(key, str)]:
        raise UserError(
            f"{where} is not a METER checkpoint that can be read: {strange[0]!r} is not the name of a tensor"
        )
    own = {key: value for key, value in weights.items() if key.split(".")[0] not in METER_HEADS}
    encoder = translate(split_projections(own), METER_KEYS)
    heads: dict[str, dict[str, Tensor]] = {}
    unknown = list(encoder.unknown)
    for theirs, head in METER_HEADS.items():
        mine = {key.removeprefix(f"{theirs}."): value for key, value in weights.items() if key.startswith(f"{theirs}.")}
        if mine:
            found = translate(mine, head.keys)
            heads[head.name] = in_order(found.weights, head)
            unknown += [f"{theirs}.{key}" for key in found.unknown]
    architecture = meter_architecture(encoder.weights, options, where)
    return METERWeights(architecture, encoder.weights, heads, encoder.dropped, tuple(unknown))


def in_order(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Turn the rows of the classes around, where they stand in the opposite order."""
    if not head.reversed:
        return weights
    return {key: value.flip(0) if key in LAST else value for key, value in weights.items()}


def meter_architecture(weights: Mapping[str, Tensor], options: Mapping[str, Any], where: str) -> DualStreamConfig:
    """Read the architecture off the encoder's tensors, by our names."""
    sizes = Sizes(weights, where, "METER", meter_name)
    width = sizes.of("text_projection.weight")[0]
    drop = _number(options, "drop_rate", 0.1, where)
    heads = int(_number(options, "num_heads", max(width // HEAD_WIDTH, 1), where))
    fusion = CoAttentionConfig(
        width=width,
        layers=sizes.count(r"fusion\.text\.(\d+)\..*"),
        heads=heads,
        intermediate=sizes.of("fusion.text.0.feed_forward.inner.weight")[0],
        dropout=drop,
        token_types=sizes.of("token_types.weight")[0],
        layer_norm_eps=FUSION_EPS,
    )
    is_swin = any(key.startswith("image.model.") for key in weights)
    image = _swin(sizes) if is_swin else _clip(sizes)
    return DualStreamConfig(_text(sizes, options), image, fusion, init_std=0.02)


def _text(sizes: Sizes, options: Mapping[str, Any]) -> TextEncoderConfig:
    vocabulary, width = sizes.of("text.model.embeddings.word_embeddings.weight")
    types = sizes.of("text.model.embeddings.token_type_embeddings.weight")[0]
    given = options["text"] if isinstance(options.get("text"), Mapping) else {}
    told = given.get("model_type")
    kind = str(told) if told in TEXT_TYPES else "roberta" if types == 1 else "bert"  # RoBERTa has no segments
    return HFTextConfig(
        vocab_size=vocabulary,
        width=width,
        type=kind,
        layers=sizes.count(r"text\.model\.encoder\.layer\.(\d+)\..*"),
        heads=int(_number(given, "num_attention_heads", max(width // HEAD_WIDTH, 1), sizes.where)),
        intermediate=sizes.of("text.model.encoder.layer.0.intermediate.dense.weight")[0],
        max_positions=sizes.of("text.model.embeddings.position_embeddings.weight")[0],
        pad_token_id=int(_number(given, "pad_token_id", 1 if kind == "roberta" else 0, sizes.where)),
        layer_norm_eps=_number(given, "layer_norm_eps", 1e-5 if kind == "roberta" else 1e-12, sizes.where),
        dropout=_number(given, "hidden_dropout_prob", 0.1, sizes.where),
        options={"type_vocab_size": types},
    )


def _clip(sizes: Sizes) -> ImageEncoderConfig:
    width, _, patch, _ = sizes.of("image.patch_embedding.weight", 4)
    side = math.isqrt(max(sizes.of("image.position_embedding.weight")[0] - 1, 0))
    return ClipViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=sizes.count(r"image\.encoder\.layers\.(\d+)\..*"),
        heads=max(width // HEAD_WIDTH, 1),
        intermediate=sizes.of("image.encoder.layers.0.mlp.fc1.weight")[0],
    )


def _swin(sizes: Sizes) -> ImageEncoderConfig:
    """Read a Swin: METER's window is the grid of the last stage, so that bias tables tell the pictures' size."""
    embed, _, patch, _ = sizes.of("image.model.patch_embed.proj.weight", 4)
    stages = max(sizes.count(r"image\.model\.layers\.(\d+)\..*"), 1)  # of none, the first one is named as missing
    depths = [sizes.count(rf"image\.model\.layers\.{stage}\.blocks\.(\d+)\..*") for stage in range(stages)]
    tables = [
        sizes.of(f"image.model.layers.{stage}.blocks.0.attn.relative_position_bias_table") for stage in range(stages)
    ]
    window = (math.isqrt(tables[0][0]) + 1) // 2
    return TimmImageConfig(
        image_size=window * patch * 2 ** (stages - 1),
        name="swin_base_patch4_window7_224",
        drop_path=0.1,
        pooling="mean",
        options={
            "patch_size": patch,
            "embed_dim": embed,
            "depths": depths,
            "num_heads": [table[1] for table in tables],
        },
    )


def _number(options: Mapping[str, Any], name: str, default: float, where: str) -> float:
    """Return an option of the file; it may be missing, but no tensor shows that it is wrong."""
    value = options.get(name)
    if value is None:
        return default
    if not is_number(value):
        raise UserError(
            f"{where} is not a METER checkpoint that can be read: its option {name} is {value!r}, no number"
        )
    return float(value)


def meter_name(name: str) -> str:
    """Return what METER's file calls the tensor that ours was read from; what METER has no name for keeps its own."""
    return re.sub(r"\.attn\.[qkv]_proj\.", ".attn.in_proj_", published_name(name) or name)


def published_name(name: str) -> str | None:
    """Return METER's name of a tensor, given ours: of the encoder, or ``HEAD.`` and the name inside of it."""
    head, _, rest = name.partition(".")
    if head not in OURS:
        return next(iter(translate({name: torch.empty(0)}, BACK).weights), None)
    found = translate({rest: torch.empty(0)}, invert(METER_HEADS[OURS[head]].keys)).weights
    return next((f"{OURS[head]}.{key}" for key in found), None)
