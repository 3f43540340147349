"""The layout of VLMo's published checkpoints (arXiv 2111.02358, microsoft/unilm): read and written by one table.

They are files of ``torch.save``: tensors by name, plain or under ``state_dict``, ``module`` or ``model``, maybe with
``module.`` before each name. Sizes are read off the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.keymap import KeyMap, invert, rename, translate
from vle_lightning.models.backbone import Backbone, BackboneConfig
from vle_lightning.models.mome import MoMEConfig
from vle_lightning.models.relative_bias import image_rows

FILE = "vlmo.pt"  # what an export is called
HEAD_WIDTH = 64  # of an attention head, where the bias table does not tell
PLUS_WIDTH, PLUS_HEADS = 544, 16  # VLMo-Base-plus, which has no table
WRAPPERS = ("state_dict", "module", "model")
BLOCK = r"transformer\.blocks\.(\d+)\."
VLMO_KEYS: KeyMap = {
    r"text_embeddings\.position_ids": None,  # buffers, which are computed here
    r"(?:text_|text_imag_)?relative_position_index": None,
    r"text_embeddings\.word_embeddings\.weight": r"text.words.weight",
    r"text_embeddings\.position_embeddings\.weight": r"text.positions.weight",
    r"text_embeddings\.token_type_embeddings\.weight": r"text.segments.weight",
    r"text_embeddings\.LayerNorm\.(.*)": r"text.norm.\1",
    r"token_type_embeddings\.weight": r"token_types.weight",
    r"transformer\.patch_embed\.proj\.(.*)": r"image.patch_embedding.\1",
    r"transformer\.cls_token": r"image.class_embedding",
    r"transformer\.pos_embed": r"image.position_embedding.weight",
    BLOCK + r"norm1\.(.*)": r"blocks.\1.norm.\2",
    BLOCK + r"attn\.(qkv\.weight|q_bias|v_bias|proj\..*)": r"blocks.\1.attention.\2",
    BLOCK + r"gamma_(1|2)": r"blocks.\1.scale_\2",
    BLOCK + r"norm2_text\.(.*)": r"blocks.\1.experts.text.norm.\2",
    BLOCK + r"norm2_imag\.(.*)": r"blocks.\1.experts.image.norm.\2",
    BLOCK + r"norm2_vl\.(.*)": r"blocks.\1.experts.pair.norm.\2",
    BLOCK + r"mlp_text\.(fc1|fc2)\.(.*)": r"blocks.\1.experts.text.\2.\3",
    BLOCK + r"mlp_imag\.(fc1|fc2)\.(.*)": r"blocks.\1.experts.image.\2.\3",
    BLOCK + r"mlp_vl\.(fc1|fc2)\.(.*)": r"blocks.\1.experts.pair.\2.\3",
    r"transformer\.norm\.(.*)": r"norm.\1",
    r"pooler\.dense\.(.*)": r"pooler.dense.\1",
    r"relative_position_bias_table": r"position_bias",
}
SHAPED = {"image.class_embedding": (1, 1), "image.position_embedding.weight": (1,)}  # leading ones of theirs
UNUSED = "text.positions.weight"  # stored beside a relative table, and never added
CLASSIFIER: KeyMap = {r"([013]\..*)": r"\1"}


class Head(NamedTuple):
    """A head of VLMo."""

    name: str  # of ours
    keys: KeyMap  # whole published names -> names inside of our head
    reversed: bool = False  # its classes stand in the opposite order here


def _prefixed(prefix: str, keys: KeyMap) -> KeyMap:
    return {rf"{prefix}\.{pattern}": name for pattern, name in keys.items()}


VLMO_HEADS: tuple[Head, ...] = (
    Head("itm_score", _prefixed("itm_score", {r"fc\.(.*)": r"\1"})),
    Head(
        "mlm_score",
        _prefixed(
            "mlm_score",
            {
                r"transform\.dense\.(.*)": r"transform.0.\1",
                r"transform\.LayerNorm\.(.*)": r"transform.2.\1",
                r"decoder\.weight": r"decoder.weight",
                r"bias": r"decoder.bias",
            },
        ),
    ),
    Head(
        "itc",
        {
            r"itc_text_proj\.fc\.weight": r"single.text.weight",
            r"itc_image_proj\.fc\.weight": r"single.image.weight",
            r"itc_vl_text_proj\.fc\.weight": r"pair.text.weight",
            r"itc_vl_image_proj\.fc\.weight": r"pair.image.weight",
            r"logit_scale": r"single.log_scale",
            r"logit_vl_scale": r"pair.log_scale",
        },
    ),
    Head("vqa_classifier", _prefixed("vqa_classifier", CLASSIFIER)),
    Head("nlvr2", _prefixed("nlvr2_classifier", CLASSIFIER), reversed=True),  # false, true there
)
HEADS = {head.name: head for head in VLMO_HEADS}
LAST = ("3.weight", "3.bias")  # of a classifier: what has a row for each class


class VLMoWeights(NamedTuple):
    """The tensors of a VLMo checkpoint by their names here."""

    architecture: MoMEConfig
    encoder: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]  # by our name, then by the name inside of our head
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def unwrap(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tensors of a file, from under whatever wraps them, without ``module.`` before their names."""
    for name in WRAPPERS:
        if isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if content and all(str(key).startswith("module.") for key in content):
        content = {str(key).removeprefix("module."): value for key, value in content.items()}
    return content


def is_vlmo(names: Iterable[str]) -> bool:
    """Are these the names of the tensors of a VLMo?"""
    return any(re.fullmatch(BLOCK + r"mlp_(text|imag|vl)\..*", str(name)) for name in names)


def is_vlmo_config(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a VLMo with its sizes beside it?"""
    return {"config", "arch"} <= config.keys()


def read_vlmo(weights: Mapping[str, Tensor], options: Mapping[str, Any], where: str) -> VLMoWeights:
    """Give the tensors of a VLMo checkpoint their names here, and read its sizes off them.

    Args:
        weights: without wrappers (`unwrap`).
        options: VLMo's ``config`` and ``arch`` where they are known, for what no tensor tells.
        where: the file, for messages.

    Raises:
        UserError: a tensor that tells a size is missing.
    """
    rest, heads = dict(weights), {}
    for head in VLMO_HEADS:
        found = translate({key: value for key, value in rest.items() if _is_of(key, head)}, head.keys)
        if found.weights:
            heads[head.name] = _in_order(found.weights, head)
            rest = {key: value for key, value in rest.items() if not _is_of(key, head)}
    encoder = translate(rest, VLMO_KEYS)
    own = {
        name: value.flatten(0, len(SHAPED[name])) if name in SHAPED else value
        for name, value in encoder.weights.items()
    }
    architecture = vlmo_architecture(own, options, where)
    dropped = list(encoder.dropped)
    if architecture.positions == "relative" and own.pop(UNUSED, None) is not None:
        dropped.append("text_embeddings.position_embeddings.weight, which no relative model adds")
    return VLMoWeights(architecture, own, heads, tuple(dropped), encoder.unknown)


def _is_of(key: str, head: Head) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in head.keys)


def _in_order(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    if not head.reversed:
        return weights
    return {key: value.flip(0) if key in LAST else value for key, value in weights.items()}


def vlmo_architecture(weights: Mapping[str, Tensor], options: Mapping[str, Any], where: str) -> MoMEConfig:
    """Read the architecture off the tensors, by our names."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise UserError(f"{where} is no VLMo checkpoint that can be read: it has no tensor for {name}")
        return tuple(weights[name].shape)

    def blocks(pattern: str) -> set[int]:
        found = (re.fullmatch(pattern, key) for key in weights)
        return {int(match[1]) for match in found if match}

    vocabulary, width = shape("text.words.weight")
    layers = len(blocks(r"blocks\.(\d+)\.norm\.weight"))
    patch = shape("image.patch_embedding.weight")[-1]
    table = weights.get("position_bias")
    texts = int(options.get("config", {}).get("max_text_len_of_initckpt") or 196)
    if table is not None:
        heads = table.shape[1] // max(layers, 1)
        side = (math.isqrt(max(len(table) - 2 * texts - 2 - 3, 0)) + 1) // 2
        if image_rows(side) + 2 * texts + 2 != len(table):
            raise UserError(
                f"{where}: a relative position table of {len(table)} rows is of no square grid with {texts} tokens"
            )
    else:
        given = options.get("arch", {}).get("num_heads")
        heads = int(given or (PLUS_HEADS if width == PLUS_WIDTH else max(width // HEAD_WIDTH, 1)))
        side = math.isqrt(shape("image.position_embedding.weight")[0] - 1)
        texts = shape(UNUSED)[0]
    scale = weights.get("blocks.0.scale_1")
    return MoMEConfig(
        image_size=side * patch,
        patch_size=patch,
        vocab_size=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        intermediate=shape("blocks.0.experts.text.fc1.weight")[0],
        fusion_layers=len(blocks(r"blocks\.(\d+)\.experts\.pair\.norm\.weight")),
        text_positions=texts,
        positions="absolute" if table is None else "relative",
        layer_scale=None if scale is None else 0.1,
        token_types=shape("token_types.weight")[0],
    )


def as_vlmo(config: BackboneConfig) -> MoMEConfig:
    """Return the configuration, if VLMo's layout has a place for it.

    Raises:
        UserError: it is another backbone's, or of an ablation.
    """
    if not isinstance(config, MoMEConfig) or config.shared_experts:
        raise UserError(f"VLMo's layout holds a mome with experts, not a {config.kind}; export it in ours")
    return config


def vlmo_name(name: str) -> str:
    """Return VLMo's name of a tensor, given ours: of the encoder, or ``HEAD.`` and the name inside of it."""
    head, _, rest = name.partition(".")
    table, key = (HEADS[head].keys, rest) if head in HEADS else (VLMO_KEYS, name)
    return next(iter(rename({key: torch.empty(0)}, {**invert(table), ".*": r"\g<0>"}, "")))


def vlmo_tensors(encoder: Backbone, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of an encoder and its heads by VLMo's names."""
    named: dict[str, Tensor] = {}
    for name, value in own_tensors({"": encoder}).tensors.items():
        shaped = value.view(*SHAPED[name], *value.shape) if name in SHAPED else value
        named[vlmo_name(name)] = shaped.detach().contiguous()
    for name, head in heads.items():
        weights = _in_order(dict(head.state_dict()), HEADS[name])
        named |= {vlmo_name(f"{name}.{key}"): value.detach().contiguous() for key, value in weights.items()}
    return named


def write_vlmo(folder: Path, encoder: Backbone, heads: Mapping[str, nn.Module]) -> None:
    """Write ``vlmo.pt``, which VLMo's ``load_path`` reads.

    Args:
        folder: is there.
        encoder: a mixture of modality experts.
        heads: by our names; those without a place in VLMo are refused.

    Raises:
        UserError: the encoder or a head has no place in VLMo's layout.
    """
    as_vlmo(encoder.config)
    if strange := sorted(heads.keys() - HEADS.keys()):
        raise UserError(f"VLMo's layout has no place for the head {', '.join(strange)}; export it in ours")
    torch.save({"state_dict": vlmo_tensors(encoder, heads)}, folder / FILE)
