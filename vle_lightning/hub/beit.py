"""BEiT's weights (arXiv 2106.08254) as the start of a mixture of modality experts, as VLMo begins its second stage.

BEiT brings attention, the image expert, patch embedding and class token; experts of text and of pairs, embeddings of
text, token types and the pooler stay as they were drawn. A file has a table of relative positions for each block (after
fine-tuning, and in timm) or one for all blocks (after pre-training), which every block starts from then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.filling import LoadReport, fill
from vle_lightning.hub.folder import BROKEN, not_finite, read_plain, read_weights
from vle_lightning.hub.keymap import KeyMap, invert, translate
from vle_lightning.hub.vlmo import unwrap
from vle_lightning.models.experts import IMAGE, TEXT, MoMEBlock
from vle_lightning.models.mome import MoME
from vle_lightning.models.relative_bias import image_rows, resize_bias_table

TIMM = "timm:"  # prefix of a name of timm's weights
OPTION = "model.image_init"
TABLE = "rel_pos_bias.relative_position_bias_table"  # of all blocks
BLOCK = r"blocks\.(\d+)\."
BEIT_KEYS: KeyMap = {
    r".*relative_position_index": None,  # a buffer, which is computed here
    r"(?:head|fc_norm|lm_head)\..*": None,
    r"mask_token": None,
    r"cls_token": r"image.class_embedding",
    r"patch_embed\.proj\.(.*)": r"image.patch_embedding.\1",
    BLOCK + r"norm1\.(.*)": r"blocks.\1.norm.\2",
    BLOCK + r"attn\.(qkv\.weight|q_bias|v_bias|proj\..*)": r"blocks.\1.attention.\2",
    BLOCK + r"gamma_(1|2)": r"blocks.\1.scale_\2",
    BLOCK + r"norm2\.(.*)": r"blocks.\1.experts.image.norm.\2",
    BLOCK + r"mlp\.(fc1|fc2)\.(.*)": r"blocks.\1.experts.image.\2.\3",
    r"norm\.(.*)": r"norm.\1",  # of pre-training; after fine-tuning fc_norm stands behind the mean of the patches
}
BACK = invert(BEIT_KEYS)
NEW = ("text embeddings", "token types", "the experts of texts and of pairs", "position biases of texts", "the pooler")


def is_beit(names: Mapping[str, object]) -> bool:
    """Are these the names of the tensors of a BEiT?"""
    return {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.q_bias", "blocks.0.mlp.fc1.weight"} <= names.keys()


def fill_mome(model: MoME, modality: str, source: str) -> LoadReport:
    """Fill attention and image experts of a mixture of experts from a BEiT.

    Args:
        model: with relative positions; its table may be of larger pictures, it is resized then.
        modality: image; a text has no encoder of its own in it.
        source: ``timm:NAME`` of timm's weights, or a file: of the authors' (under ``model``) or of timm's.

    Raises:
        UserError: the source cannot be read, is not a BEiT or does not fit the configured sizes; each fault is listed.
    """
    if modality != "image":
        raise UserError(
            f"model.text_init: a mixture of experts has no text encoder that could start from {source}; start all of "
            "it from a checkpoint of pre-training on texts (model.init)"
        )
    if model.position_bias is None:
        raise UserError(f"{OPTION}: {source} has relative positions, the model absolute ones; it cannot start from it")
    state = _read(source)
    if not is_beit(state):
        raise UserError(f"{OPTION}: {source} is not a BEiT checkpoint: it lacks the tensors of one")
    tables = {key: value for key, value in state.items() if key.endswith("relative_position_bias_table")}
    renamed = translate({key: value for key, value in state.items() if key not in tables}, BEIT_KEYS)
    table, resized = _table(model, tables, source)
    weights = {_own_name(model, name): value for name, value in renamed.weights.items()}
    weights["image.class_embedding"] = weights["image.class_embedding"].flatten()
    parts = _parts(model)
    new = NEW if "norm.weight" in weights else (*NEW, "the last norm")
    if "norm.weight" in weights:
        parts["norm."] = model.norm
    report = LoadReport(source, 0, 0, dropped=renamed.dropped, new=new)
    faults = [f"{key} is unknown here" for key in renamed.unknown]
    report = fill(parts, weights, report, OPTION, faults, _beit_name)
    with torch.no_grad():
        model.position_bias[: len(table)] = table
    return report._replace(
        tensors=report.tensors + len(tables), parameters=report.parameters + table.numel(), resized=resized
    )


def _read(source: str) -> dict[str, Tensor]:
    if source.startswith(TIMM):
        name = source.removeprefix(TIMM)
        kind = name.split(".")[0]
        if ":" not in name:  # else of the hub or a folder, whose configuration says what it is
            if not timm.is_model(kind):
                raise UserError(f"{OPTION}: timm has no model {kind}; name a BEiT, such as {TIMM}beit_base_patch16_224")
            if timm.models.model_entrypoint(kind).__module__ != Beit.__module__:
                raise UserError(f"{OPTION}: {source} is not a BEiT; a mixture of experts starts from one")
        try:
            model = timm.create_model(name, pretrained=True)
        except BROKEN as error:
            raise UserError(f"{OPTION}: {source} cannot be loaded (no network?): {error}") from error
        if not isinstance(model, Beit):
            raise UserError(f"{OPTION}: {source} is not a BEiT; a mixture of experts starts from one")
        return dict(model.state_dict())
    file = Path(source)
    if not file.is_file():
        raise UserError(f"{OPTION}: there is no file {file}; name one, or {TIMM}NAME for weights of timm's")
    if file.suffix == ".safetensors":
        return read_weights(file, OPTION)
    return {key: value for key, value in unwrap(read_plain(file, OPTION)).items() if isinstance(value, Tensor)}


def _table(model: MoME, tables: Mapping[str, Tensor], source: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return the image rows (R, L * H) of the model's table, and what was resized."""
    layers, heads = model.config.layers, model.config.heads
    names = [f"blocks.{number}.attn.relative_position_bias_table" for number in range(layers)]
    shared = TABLE in tables
    if not shared and (missing := [name for name in names if name not in tables]):
        raise UserError(f"{OPTION}: {source} does not fit model.architecture: {missing[0]} is missing")
    if strange := tables.keys() - ({TABLE} if shared else set(names)):
        raise UserError(f"{OPTION}: {source} does not fit model.architecture: {min(strange)} is unknown here")
    found = [tables[TABLE if shared else name] for name in names]
    rows = len(found[0]) if found[0].dim() else 0
    side = (math.isqrt(max(rows - 3, 0)) + 1) // 2
    wrong = [name for name, table in zip(names, found, strict=True) if table.shape != (image_rows(side), heads)]
    if wrong:
        shape, name = tuple(found[names.index(wrong[0])].shape), TABLE if shared else wrong[0]
        raise UserError(
            f"{OPTION}: {source} does not fit model.architecture: {name} is {shape}; rows of a square grid and {heads} "
            "heads belong there"
        )
    if sick := not_finite(tables):
        raise UserError(
            f"{OPTION}: {source} holds weights that are not finite (NaN or infinity): {', '.join(sick[:20])}"
        )
    if side > model.window:
        pixels = side * model.config.patch_size
        raise UserError(
            f"{OPTION}: {source} is of {pixels} pixels, and its positions cannot shrink to {model.config.image_size}: "
            f"set model.architecture.image_size to at least {pixels}"
        )
    table = resize_bias_table(torch.cat(found, dim=1), side, model.window)
    told = f"the position biases from {side * model.config.patch_size} to {model.config.image_size} pixels"
    return table, () if side == model.window else (told,)


def _own_name(model: MoME, name: str) -> str:
    """Return the name of a tensor; the one expert of an ablation goes by the text's."""
    return name.replace(f".{IMAGE}.", f".{TEXT}.") if model.config.shared_experts else name


def _parts(model: MoME) -> dict[str, nn.Module]:
    """Return what a BEiT fills, by the prefix of its names."""
    parts: dict[str, nn.Module] = {"image.": model.image}
    expert = TEXT if model.config.shared_experts else IMAGE
    for number, block in enumerate(model.blocks):
        assert isinstance(block, MoMEBlock)
        root = f"blocks.{number}."
        parts |= {f"{root}norm.": block.norm, f"{root}attention.": block.attention}
        parts[f"{root}experts.{expert}."] = block.experts[expert]
        scales = {name: scale for name in ("scale_1", "scale_2") if (scale := getattr(block, name)) is not None}
        parts[root] = nn.ParameterDict(scales)
    return parts


def _beit_name(name: str) -> str:
    """Return BEiT's name of a tensor, given ours."""
    theirs = next(iter(translate({name: torch.empty(0)}, BACK).weights), name)
    return re.sub(r"^blocks\.(\d+)\.experts\.text\.", r"blocks.\1.mlp.", theirs)
