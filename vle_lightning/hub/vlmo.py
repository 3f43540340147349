"""The layout of VLMo's published checkpoints (arXiv 2111.02358, microsoft/unilm): read and written by one table.

They are files of ``torch.save``: tensors by name, plain or under ``state_dict``, ``module`` or ``model``, maybe with
``module.`` before each name (DeepSpeed). Sizes are read off the tensors. What no model computes with (indices, and the
table of text positions beside a relative one) is carried along, so that a file can be written as it was read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.keymap import KeyMap, invert, translate
from vle_lightning.hub.layouts import Sizes
from vle_lightning.models.mome import TEXT_POSITIONS, MoMEConfig
from vle_lightning.models.relative_bias import image_index, image_rows, joint_index, text_index

FILE = "vlmo.pt"  # what an export is called
PLUS_WIDTH, PLUS_HEADS = 544, 16  # VLMo-Base-plus, which has no table
PUBLISHED_TEXTS = 196  # tokens that the relative tables of all published files know
WRAPPERS = ("state_dict", "module", "model")
POSITION_IDS = "text_embeddings.position_ids"
INDICES = ("relative_position_index", "text_relative_position_index", "text_imag_relative_position_index")
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
UNUSED = "text_embeddings.position_embeddings.weight"  # beside a relative table, where it is never added
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
            r"itc_text_proj\.fc\.weight": r"text.weight",
            r"itc_image_proj\.fc\.weight": r"image.weight",
            r"logit_scale": r"log_scale",
        },
    ),
    Head(
        "itc_pair",
        {
            r"itc_vl_text_proj\.fc\.weight": r"text.weight",
            r"itc_vl_image_proj\.fc\.weight": r"image.weight",
            r"logit_vl_scale": r"log_scale",
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
    carried: dict[str, Tensor]  # by their names there: what is written back as it was read


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
        UserError: a tensor that tells a size is missing or of other dimensions, or the indices are of another order.
    """
    if strange := [str(key) for key, value in weights.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{where} holds other things than tensors under {', '.join(strange[:10])}")
    rest, heads = dict(weights), {}
    for head in VLMO_HEADS:
        found = translate({key: value for key, value in rest.items() if _is_of(key, head)}, head.keys)
        if found.weights:
            heads[head.name] = in_order(found.weights, head)
            rest = {key: value for key, value in rest.items() if not _is_of(key, head)}
    encoder = translate(rest, VLMO_KEYS)
    flat = {name: _flat(name, value, where) for name, value in encoder.weights.items()}
    sizes = Sizes(flat, where, "VLMo", vlmo_name)
    architecture = vlmo_architecture(sizes, rest, options)
    dropped, own, carried = list(encoder.dropped), dict(sizes.weights), {}
    if architecture.positions == "relative" and own.pop(TEXT_POSITIONS, None) is not None:
        dropped.append(f"{UNUSED}, which no relative model adds")
        carried[UNUSED] = rest[UNUSED]
    carried |= {name: rest[name] for name in (POSITION_IDS, *INDICES) if name in rest}
    _check_indices(carried, architecture, where)
    return VLMoWeights(architecture, own, heads, tuple(dropped), encoder.unknown, carried)


def _is_of(key: str, head: Head) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in head.keys)


def in_order(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Turn the rows of the classes around, where they stand in the opposite order."""
    if not head.reversed:
        return weights
    return {key: value.flip(0) if key in LAST else value for key, value in weights.items()}


def _flat(name: str, value: Tensor, where: str) -> Tensor:
    """Leave out the leading dimensions of one that some of their tensors have."""
    leading = SHAPED.get(name, ())
    if not leading:
        return value
    if value.dim() <= len(leading) or value.shape[: len(leading)] != leading:
        raise UserError(
            f"{where} is not a VLMo checkpoint that can be read: {vlmo_name(name)} is {tuple(value.shape)}; its first "
            f"{len(leading)} sizes are 1 there"
        )
    return value.flatten(0, len(leading))


def vlmo_architecture(sizes: Sizes, stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> MoMEConfig:
    """Read the architecture off the tensors: ``sizes`` of the encoder's, by our names; ``stored`` by theirs."""
    vocabulary, width = sizes.of("text.words.weight")
    patch = sizes.of("image.patch_embedding.weight", 4)[-1]
    layers = sizes.count(r"blocks\.(\d+)\.norm\.weight")
    relative = "position_bias" in sizes.weights
    if relative:
        rows, columns = sizes.of("position_bias")
        heads = max(columns // max(layers, 1), 1)
        side, texts = _grid(rows, stored, options, sizes.where)
    else:
        heads = _heads(width, options, sizes.where)
        side = math.isqrt(sizes.of("image.position_embedding.weight")[0] - 1)
        texts = sizes.of(TEXT_POSITIONS)[0]
    return MoMEConfig(
        image_size=side * patch,
        patch_size=patch,
        vocab_size=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        intermediate=sizes.of("blocks.0.experts.text.fc1.weight")[0],
        fusion_layers=sizes.count(r"blocks\.(\d+)\.experts\.pair\.norm\.weight"),
        text_positions=texts,
        positions="relative" if relative else "absolute",
        layer_scale=0.1 if "blocks.0.scale_1" in sizes.weights else None,
        token_types=sizes.of("token_types.weight")[0],
    )


def _option(options: Mapping[str, Any], part: str, name: str) -> int | None:
    """Return a size that the options of a file tell, if it is one."""
    given = options.get(part)
    value = given.get(name) if isinstance(given, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _grid(rows: int, stored: Mapping[str, Tensor], options: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return the patches a side and the text tokens that a relative table of so many rows is made for."""
    index = stored.get(INDICES[0])
    if index is not None and index.dim() == 2:
        side = math.isqrt(max(len(index) - 1, 0))
        texts = (rows - image_rows(side) - 2) // 2
    else:
        texts = _option(options, "config", "max_text_len_of_initckpt") or PUBLISHED_TEXTS
        side = (math.isqrt(max(rows - 2 * texts - 2 - 3, 0)) + 1) // 2
    if side < 1 or texts < 1 or image_rows(side) + 2 * texts + 2 != rows:
        raise UserError(f"{where}: a relative position table of {rows} rows is of no square grid with {texts} tokens")
    return side, texts


def _heads(width: int, options: Mapping[str, Any], where: str) -> int:
    heads = _option(options, "arch", "num_heads") or (PLUS_HEADS if width == PLUS_WIDTH else None)
    if heads is None:
        raise UserError(
            f"{where} has no table of relative positions, which would tell its attention heads, and is not "
            f"VLMo-Base-plus ({PLUS_WIDTH} wide): nothing says how many heads it has"
        )
    return heads


def computed_index(name: str, config: MoMEConfig, tokens: int) -> Tensor:
    """Compute an index of relative positions by its name there, for texts of so many tokens: (N, N) int64."""
    side, known = config.image_size // config.patch_size, config.text_positions
    if name == INDICES[0]:
        return image_index(side)
    return (text_index if name == INDICES[1] else joint_index)(side, tokens, known)


def index_tokens(name: str, index: Tensor, config: MoMEConfig) -> int:
    """Return the text tokens that a stored index is made for."""
    images = (config.image_size // config.patch_size) ** 2 + 1
    return {INDICES[0]: 0, INDICES[1]: len(index), INDICES[2]: len(index) - images}[name]


def _check_indices(carried: Mapping[str, Tensor], config: MoMEConfig, where: str) -> None:
    """Refuse indices of another order than VLMo's: its table would be read at the wrong rows."""
    for name in INDICES:
        if (index := carried.get(name)) is None:
            continue
        tokens = index_tokens(name, index, config) if index.dim() == 2 else -1
        most = config.text_positions
        if not 0 <= tokens <= most or not torch.equal(index.long(), computed_index(name, config, tokens)):
            raise UserError(f"{where}: {name} is not the order of positions that VLMo's code makes")


def vlmo_name(name: str) -> str:
    """Return VLMo's name of a tensor, given ours; what VLMo has no name for keeps its own."""
    return published_name(name) or name


def published_name(name: str) -> str | None:
    """Return VLMo's name of a tensor, given ours: of the encoder, or ``HEAD.`` and the name inside of it."""
    head, _, rest = name.partition(".")
    table, key = (HEADS[head].keys, rest) if head in HEADS else (VLMO_KEYS, name)
    return next(iter(translate({key: torch.empty(0)}, invert(table)).weights), None)
