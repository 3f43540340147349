"""The layout of the published VLE checkpoints (iflytek/VLE): their tensors, read and written by one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.folder import CONFIG, SAFETENSORS
from vle_lightning.hub.keymap import KeyMap, invert, rename, translate
from vle_lightning.hub.vle_config import as_vle, encoder_config, is_vle, label_names, published_config, with_dtype
from vle_lightning.models.backbone import Backbone, BackboneConfig

__all__ = ["VLE_HEADS", "VLE_KEYS", "Published", "encoder_config", "is_vle", "label_names", "read_vle", "write_vle"]

VQA_HEAD = "vqa_classifier"
PREFIX = "vle."  # of the encoder's tensors in a model with a head
LAYER = r"vle\.cross_modal_(text|image)_layers\.(\d+)\."
VISION = r"vle\.vision_model\.vision_model\."
VLE_KEYS: KeyMap = {
    r"vle\.text_model\.embeddings\.position_ids": None,  # buffers, 0, 1, 2, ...
    VISION + r"embeddings\.position_ids": None,
    r"vle\.text_model\.(.*)": r"text.model.\1",
    VISION + r"embeddings\.patch_embedding\.(.*)": r"image.patch_embedding.\1",
    VISION + r"embeddings\.class_embedding": r"image.class_embedding",
    VISION + r"embeddings\.position_embedding\.(.*)": r"image.position_embedding.\1",
    VISION + r"pre_layrnorm\.(.*)": r"image.pre_norm.\1",
    VISION + r"post_layernorm\.(.*)": r"image.post_norm.\1",
    VISION + r"encoder\.(.*)": r"image.encoder.\1",
    r"vle\.(text|image)_projection_layer\.(.*)": r"\1_projection.\2",
    r"vle\.token_type_embeddings\.(.*)": r"token_types.\1",
    r"vle\.cross_modal_(text|image)_pooler\.(.*)": r"\1_pooler.\2",
    LAYER + r"attention\.self\.(query|key|value)\.(.*)": r"fusion.\1.\2.attention.\3.\4",
    LAYER + r"attention\.output\.dense\.(.*)": r"fusion.\1.\2.attention.output.\3",
    LAYER + r"attention\.output\.LayerNorm\.(.*)": r"fusion.\1.\2.attention.norm.\3",
    LAYER + r"crossattention\.self\.(query|key|value)\.(.*)": r"fusion.\1.\2.cross.\3.\4",
    LAYER + r"crossattention\.output\.dense\.(.*)": r"fusion.\1.\2.cross.output.\3",
    LAYER + r"crossattention\.output\.LayerNorm\.(.*)": r"fusion.\1.\2.cross.norm.\3",
    LAYER + r"intermediate\.dense\.(.*)": r"fusion.\1.\2.feed_forward.inner.\3",
    LAYER + r"output\.dense\.(.*)": r"fusion.\1.\2.feed_forward.output.\3",
    LAYER + r"output\.LayerNorm\.(.*)": r"fusion.\1.\2.feed_forward.norm.\3",
}
CLASSIFIER: KeyMap = {r"([013]\..*)": r"\1"}
VLE_HEADS: dict[str, KeyMap] = {
    "itm_score": {r"fc\.(.*)": r"\1"},
    "mlm_score": {
        r"0\.(.*)": r"transform.0.\1",
        r"1\.predictions\.transform\.dense\.(.*)": r"transform.1.\1",
        r"1\.predictions\.transform\.LayerNorm\.(.*)": r"transform.3.\1",
        r"1\.predictions\.bias": r"decoder.bias",
        r"1\.predictions\.decoder\.(.*)": r"decoder.\1",  # tied: published files hold neither
    },
    "pbc_classifier": CLASSIFIER,
    VQA_HEAD: CLASSIFIER,
    "vcr_q2a_logit": CLASSIFIER,
    "vcr_qa2r_logit": CLASSIFIER,
}
TEXT_POSITIONS = "text_model.embeddings.position_ids"
IMAGE_POSITIONS = "vision_model.vision_model.embeddings.position_ids"


class Published(NamedTuple):
    """What a published folder says beside its weights, kept so that it can be written again."""

    config: dict[str, Any]  # its config.json
    prefix: str = PREFIX  # of the encoder's tensors; nothing where the authors' VLEModel itself was saved
    buffers: bool = True  # whether it holds position_ids, as transformers before 4.31 wrote them


class VLEWeights(NamedTuple):
    """The tensors of a published folder by their names here."""

    encoder: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]  # by published name, then by the name inside of our head
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]  # keys that no table names
    published: Published


def read_vle(weights: Mapping[str, Tensor], config: dict[str, Any]) -> VLEWeights:
    """Give the tensors of a published checkpoint their names here."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in weights) else ""
    own = {key: value for key, value in weights.items() if key.split(".")[0] not in VLE_HEADS}
    encoder = translate({key if prefix else PREFIX + key: value for key, value in own.items()}, VLE_KEYS)
    heads: dict[str, dict[str, Tensor]] = {}
    unknown = [key if prefix else key.removeprefix(PREFIX) for key in encoder.unknown]
    for head, table in VLE_HEADS.items():
        mine = {key.removeprefix(f"{head}."): value for key, value in weights.items() if key.startswith(f"{head}.")}
        if mine:
            found = translate(mine, table)
            heads[head] = found.weights
            unknown += [f"{head}.{key}" for key in found.unknown]
    buffers = any(key.endswith("embeddings.position_ids") for key in weights)
    published = Published(config, prefix, buffers)
    return VLEWeights(encoder.weights, heads, encoder.dropped, tuple(unknown), published)


def published_name(name: str) -> str:
    """Return the published name of a tensor, given ours: of the encoder, or ``HEAD.`` and the name inside of it."""
    head, _, rest = name.partition(".")
    table, key, prefix = (VLE_HEADS[head], rest, f"{head}.") if head in VLE_HEADS else (VLE_KEYS, name, "")
    back = rename({key: torch.empty(0)}, {**invert(table), ".*": r"\g<0>"}, "")
    return prefix + next(iter(back))


def write_vle(
    folder: Path,
    encoder: Backbone,
    heads: Mapping[str, nn.Module],
    published: Published | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Write config.json and model.safetensors that the authors' ``from_pretrained`` reads.

    Args:
        folder: is there.
        encoder: in any float type; it is written as it is.
        heads: by published name.
        published: of the folder that the model started from, to keep what this code does not use.
        labels: the answers of a VQA head, in order.

    Raises:
        UserError: a part of the encoder is of another kind than VLE's.
    """
    as_vle(encoder.config)
    base = published.config if published else None
    answers = heads[VQA_HEAD].state_dict()["3.bias"] if VQA_HEAD in heads else ()
    if labels is None and len(answers) != len((base and label_names(base)) or ()):
        labels = [f"LABEL_{number}" for number in range(len(answers))]  # the authors' code counts them to size the head
    config = with_dtype(published_config(encoder.config, base, heads, labels), encoder.token_types.weight.dtype)
    (folder / CONFIG).write_text(config_text(config), encoding="utf-8")
    save_file(vle_tensors(encoder, heads, published), folder / SAFETENSORS, metadata={"format": "pt"})


def config_text(config: Mapping[str, Any]) -> str:
    """Write a config.json byte for byte as transformers does, which sorts labels by number."""
    names = config.get("id2label")
    numbered = {} if names is None else {"id2label": {int(number): name for number, name in names.items()}}
    return json.dumps({**config, **numbered}, indent=2, sort_keys=True) + "\n"


def vle_tensors(encoder: Backbone, heads: Mapping[str, nn.Module], published: Published | None) -> dict[str, Tensor]:
    """Return the tensors of an encoder and its heads by their published names, tied ones once."""
    parts = {"": encoder, **{f"{head}.": module for head, module in heads.items()}}
    named = {published_name(name): value.detach().contiguous() for name, value in own_tensors(parts).tensors.items()}
    if published is None or published.buffers:
        named |= {PREFIX + key: value for key, value in position_ids(encoder.config).items()}
    bare = published is not None and not published.prefix and not heads
    return {key.removeprefix(PREFIX) if bare else key: value for key, value in named.items()}


def position_ids(config: BackboneConfig) -> dict[str, Tensor]:
    """Make the two buffers 0, 1, 2, ... that published files carry: (1, N) int64."""
    parts = as_vle(config)
    text, image = parts.text, parts.image
    assert isinstance(text, DebertaConfig)
    assert isinstance(image, ClipViTConfig)
    sizes = {TEXT_POSITIONS: text.max_positions, IMAGE_POSITIONS: (image.image_size // image.patch_size) ** 2 + 1}
    return {name: torch.arange(size)[None] for name, size in sizes.items()}
