"""The layout of METER's published checkpoints (arXiv 2111.02387, zdou0830/METER): read and written by one table.

They are Lightning checkpoints of ``METERTransformerSS``: the weights under ``state_dict``, its options under
``hyper_parameters``. Sizes are read off the tensors, because the options of a fine-tuned file may be another run's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import ImageEncoderConfig, TextEncoderConfig
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.hf_text import HFTextConfig
from vle_lightning.encoders.timm_image import TimmImageConfig
from vle_lightning.errors import UserError
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.keymap import KeyMap, invert, rename, translate
from vle_lightning.hub.towers import join_projections, split_projections
from vle_lightning.models.backbone import Backbone, BackboneConfig
from vle_lightning.models.dual_stream import DualStreamConfig

FILE = "meter.ckpt"  # what an export is called
HEAD_WIDTH = 64  # of an attention head, in all published encoders
SWIN_STRIDE = 32  # input pixels a side of a token of the last stage
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
LOSSES = ("itm", "mlm", "mpp", "vqa", "vcr", "vcr_qar", "nlvr2", "irtr", "contras", "snli")
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
    own = {key: value for key, value in weights.items() if key.split(".")[0] not in METER_HEADS}
    encoder = translate(split_projections(own), METER_KEYS)
    heads: dict[str, dict[str, Tensor]] = {}
    unknown = list(encoder.unknown)
    for theirs, head in METER_HEADS.items():
        mine = {key.removeprefix(f"{theirs}."): value for key, value in weights.items() if key.startswith(f"{theirs}.")}
        if mine:
            found = translate(mine, head.keys)
            heads[head.name] = _in_order(found.weights, head)
            unknown += [f"{theirs}.{key}" for key in found.unknown]
    architecture = meter_architecture(encoder.weights, options, where)
    return METERWeights(architecture, encoder.weights, heads, encoder.dropped, tuple(unknown))


def _in_order(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Turn the rows of the classes around, where they stand in the opposite order."""
    if not head.reversed:
        return weights
    return {key: value.flip(0) if key in LAST else value for key, value in weights.items()}


def meter_architecture(weights: Mapping[str, Tensor], options: Mapping[str, Any], where: str) -> DualStreamConfig:
    """Read the architecture off the encoder's tensors, by our names."""
    sizes = _Sizes(weights, where)
    width = sizes.of("text_projection.weight")[0]
    drop = _number(options.get("drop_rate"), 0.1)
    heads = int(_number(options.get("num_heads"), 0)) or max(width // HEAD_WIDTH, 1)
    fusion = CoAttentionConfig(
        width=width,
        layers=sizes.count(r"fusion\.text\.(\d+)\..*"),
        heads=heads,
        intermediate=sizes.of("fusion.text.0.feed_forward.inner.weight")[0],
        dropout=drop,
        token_types=sizes.of("token_types.weight")[0],
        layer_norm_eps=1e-12,
    )
    is_swin = any(key.startswith("image.model.") for key in weights)
    image = _swin(sizes) if is_swin else _clip(sizes)
    return DualStreamConfig(_text(sizes, options), image, fusion, init_std=0.02)


class _Sizes:
    """Shapes of tensors by name."""

    def __init__(self, weights: Mapping[str, Tensor], where: str) -> None:
        self.weights, self.where = weights, where

    def of(self, name: str) -> tuple[int, ...]:
        if name not in self.weights:
            raise UserError(f"{self.where} is no METER checkpoint that can be read: it has no tensor for {name}")
        return tuple(self.weights[name].shape)

    def count(self, pattern: str) -> int:
        found = (re.fullmatch(pattern, key) for key in self.weights)
        return len({match[1] for match in found if match})


def _text(sizes: _Sizes, options: Mapping[str, Any]) -> TextEncoderConfig:
    vocabulary, width = sizes.of("text.model.embeddings.word_embeddings.weight")
    types = sizes.of("text.model.embeddings.token_type_embeddings.weight")[0]
    kind = "roberta" if types == 1 else "bert"  # RoBERTa has no segments
    given = options.get("text") or {}
    return HFTextConfig(
        vocab_size=vocabulary,
        width=width,
        type=kind,
        layers=sizes.count(r"text\.model\.encoder\.layer\.(\d+)\..*"),
        heads=int(_number(given.get("num_attention_heads"), 0)) or max(width // HEAD_WIDTH, 1),
        intermediate=sizes.of("text.model.encoder.layer.0.intermediate.dense.weight")[0],
        max_positions=sizes.of("text.model.embeddings.position_embeddings.weight")[0],
        pad_token_id=int(_number(given.get("pad_token_id"), 1 if kind == "roberta" else 0)),
        layer_norm_eps=_number(given.get("layer_norm_eps"), 1e-5 if kind == "roberta" else 1e-12),
        dropout=_number(given.get("hidden_dropout_prob"), 0.1),
        options={"type_vocab_size": types},
    )


def _clip(sizes: _Sizes) -> ImageEncoderConfig:
    width, _, patch, _ = sizes.of("image.patch_embedding.weight")
    side = math.isqrt(sizes.of("image.position_embedding.weight")[0] - 1)
    return ClipViTConfig(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        layers=sizes.count(r"image\.encoder\.layers\.(\d+)\..*"),
        heads=max(width // HEAD_WIDTH, 1),
        intermediate=sizes.of("image.encoder.layers.0.mlp.fc1.weight")[0],
    )


def _swin(sizes: _Sizes) -> ImageEncoderConfig:
    """Read a Swin: METER's window is the grid of the last stage, so that bias tables tell the pictures' size."""
    embed, _, patch, _ = sizes.of("image.model.patch_embed.proj.weight")
    stages = sizes.count(r"image\.model\.layers\.(\d+)\..*")
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
            "window_size": window,
        },
    )


def _number(value: object, default: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else default  # type: ignore[arg-type]


def as_meter(config: BackboneConfig) -> DualStreamConfig:
    """Return the configuration, if METER's layout has a place for each of its parts.

    Raises:
        UserError: a part is of another kind than METER's.
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
        if not isinstance(part, kind) or (name == "image" and _is_no_swin(part)):
            raise UserError(
                f"METER's layout has no place for model.architecture.{name} ({part.kind}); export it in ours"
            )
    return config


def _is_no_swin(part: object) -> bool:
    return isinstance(part, TimmImageConfig) and not part.name.startswith("swin_")


def meter_name(name: str) -> str:
    """Return METER's name of a tensor, given ours: of the encoder, or ``HEAD.`` and the name inside of it."""
    head, _, rest = name.partition(".")
    table, key, prefix = (
        (METER_HEADS[OURS[head]].keys, rest, f"{OURS[head]}.") if head in OURS else (METER_KEYS, name, "")
    )
    back = rename({key: torch.empty(0)}, {**invert(table), ".*": r"\g<0>"}, "")
    return prefix + next(iter(back))


def write_meter(folder: Path, encoder: Backbone, heads: Mapping[str, nn.Module]) -> None:
    """Write ``meter.ckpt``, which METER's ``load_path`` reads.

    What METER stores and nothing reads (the text pooler, CLIP's text tower) is left out: its loader goes on without.

    Args:
        folder: is there.
        encoder: of METER's parts.
        heads: by our names; those without a place in METER are refused.

    Raises:
        UserError: a part or a head has no place in METER's layout.
    """
    config = as_meter(encoder.config)
    if strange := sorted(heads.keys() - OURS.keys()):
        raise UserError(f"METER's layout has no place for the head {', '.join(strange)}; export it in ours")
    content = {"state_dict": meter_tensors(encoder, heads), "hyper_parameters": {"config": _options(config, heads)}}
    torch.save({**content, "epoch": 0, "global_step": 0, "pytorch-lightning_version": "1.3.2"}, folder / FILE)


def meter_tensors(encoder: Backbone, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of an encoder and its heads by METER's names."""
    named: dict[str, Tensor] = {}
    for name, value in own_tensors({"": encoder}).tensors.items():
        if not name.endswith(("relative_position_index", "attn_mask")):
            named[meter_name(name)] = value.detach().contiguous()
    for name, head in heads.items():
        weights = _in_order(dict(head.state_dict()), METER_HEADS[OURS[name]])
        named |= {meter_name(f"{name}.{key}"): value.detach().contiguous() for key, value in weights.items()}
    positions = named["text_transformer.embeddings.position_embeddings.weight"].shape[0]
    named["text_transformer.embeddings.position_ids"] = torch.arange(positions)[None]
    return join_projections(named)


def _options(config: DualStreamConfig, heads: Mapping[str, nn.Module]) -> dict[str, Any]:
    text, image, fusion = config.text, config.image, config.fusion
    assert isinstance(text, HFTextConfig)
    swin = isinstance(image, TimmImageConfig)
    names = {"itm_score": "itm", "mlm_score": "mlm", "vqa_classifier": "vqa", "nlvr2": "nlvr2", "snli_ve": "snli"}
    losses = [names.get(name, "irtr") for name in heads]
    width = image.options["embed_dim"] * 8 if isinstance(image, TimmImageConfig) else getattr(image, "width", 768)
    return {
        "vit": f"swin_base_patch4_window{image.image_size // SWIN_STRIDE}_{image.image_size}" if swin else "ViT-B/16",
        "tokenizer": "roberta-base" if text.type == "roberta" else "bert-base-uncased",
        "image_size": image.image_size,
        "patch_size": getattr(image, "patch_size", SWIN_STRIDE),
        "resolution_before": image.image_size,
        "input_image_embed_size": width,
        "input_text_embed_size": text.width,
        "vocab_size": text.vocab_size,
        "hidden_size": fusion.width,
        "num_heads": fusion.heads,
        "num_layers": fusion.layers,
        "num_top_layer": fusion.layers,
        "mlp_ratio": fusion.intermediate // fusion.width,
        "drop_rate": fusion.dropout,
        "loss_names": {name: int(name in losses) for name in LOSSES},
    }
