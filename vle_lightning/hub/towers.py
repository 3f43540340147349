"""Encoders that start from published models of transformers, open_clip and timm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import open_clip
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPVisionModel

from vle_lightning.encoders.clip_vit import ClipViT
from vle_lightning.encoders.deberta import DebertaEncoder
from vle_lightning.encoders.hf_text import HFTextEncoder
from vle_lightning.encoders.timm_image import TimmImageEncoder
from vle_lightning.encoders.word_embeddings import WordEmbeddings
from vle_lightning.errors import UserError
from vle_lightning.hub.beit import TIMM, fill_mome
from vle_lightning.hub.filling import LoadReport, fill
from vle_lightning.hub.folder import BROKEN, read_plain, read_weights
from vle_lightning.hub.keymap import KeyMap, translate
from vle_lightning.hub.vle_options import IMAGE, TEXT
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.mome import MoME

Loaded = TypeVar("Loaded")
OPEN_CLIP = "open_clip:"  # prefix of open_clip:ARCHITECTURE/PRETRAINED, as in open_clip:ViT-B-16-quickgelu/openai

TRANSFORMERS_CLIP: KeyMap = {
    r"(?:vision_model\.)?embeddings\.position_ids": None,  # a buffer, 0, 1, 2, ...
    r"(?:vision_model\.)?embeddings\.patch_embedding\.weight": r"patch_embedding.weight",
    r"(?:vision_model\.)?embeddings\.class_embedding": r"class_embedding",
    r"(?:vision_model\.)?embeddings\.position_embedding\.weight": r"position_embedding.weight",
    r"(?:vision_model\.)?pre_layrnorm\.(.*)": r"pre_norm.\1",
    r"(?:vision_model\.)?post_layernorm\.(.*)": r"post_norm.\1",
    r"(?:vision_model\.)?(encoder\..*)": r"\1",
}
BLOCK = r"transformer\.resblocks\.(\d+)\."
OPEN_CLIP_VISUAL: KeyMap = {
    r"proj": None,  # to the contrastive space
    r"conv1\.weight": r"patch_embedding.weight",
    r"class_embedding": r"class_embedding",
    r"positional_embedding": r"position_embedding.weight",
    r"ln_pre\.(.*)": r"pre_norm.\1",
    r"ln_post\.(.*)": r"post_norm.\1",
    BLOCK + r"attn\.(q|k|v)_proj\.(.*)": r"encoder.layers.\1.self_attn.\2_proj.\3",
    BLOCK + r"attn\.out_proj\.(.*)": r"encoder.layers.\1.self_attn.out_proj.\2",
    BLOCK + r"ln_(1|2)\.(.*)": r"encoder.layers.\1.layer_norm\2.\3",
    BLOCK + r"mlp\.c_fc\.(.*)": r"encoder.layers.\1.mlp.fc1.\2",
    BLOCK + r"mlp\.c_proj\.(.*)": r"encoder.layers.\1.mlp.fc2.\2",
}


BERT_EMBEDDINGS = {
    "word_embeddings.weight": "words.weight",
    "position_embeddings.weight": "positions.weight",
    "LayerNorm.weight": "norm.weight",
    "LayerNorm.bias": "norm.bias",
}
HF_FREE = {  # what a text encoder's states do not depend on
    *("architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path", "initializer_range"),
    *("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "tie_word_embeddings"),
    *("id2label", "label2id", "problem_type", "use_cache", "gradient_checkpointing", "classifier_dropout"),
    *("classifier_pooling", "classifier_bias", "classifier_activation", "initializer_cutoff_factor", "decoder_bias"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout", "sparse_prediction"),
    *("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index"),
}
FORMER = {"position_embedding_type": "absolute"}  # which transformers 5 does not know; all its models have this value
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


def fill_encoder(model: Backbone, modality: str, source: str) -> LoadReport:
    """Fill the text or image encoder of a backbone from a published model.

    Args:
        model: the backbone.
        modality: text or image.
        source: what its kind of encoder can start from, see `FILLERS`; of a backbone without encoders what all of it
            can, see `BACKBONES`.

    Raises:
        UserError: the encoder cannot start from anything, or the source does not fit it.
    """
    for backbone, fill_backbone in BACKBONES.items():
        if isinstance(model, backbone):
            return fill_backbone(model, modality, source)
    encoder = model.encoders().get(modality)
    if encoder is None:
        raise UserError(f"model.{modality}_init: {type(model).__name__} has no {modality} encoder of its own")
    for kind, fill_from in FILLERS.items():
        if isinstance(encoder, kind):
            return fill_from(encoder, source)
    raise UserError(f"model.{modality}_init: {type(encoder).__name__} has no published weights to start from")


def fill_text_tower(encoder: DebertaEncoder, source: str) -> LoadReport:
    """Fill the text tower from a transformers DeBERTa-v2 or -v3 name or folder.

    Raises:
        UserError: the model cannot be had, computes something else or does not fit the configured sizes.
    """
    model, missing = _load(AutoModel, source)
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    wanted = {name: getattr(encoder.model.config, name) for name in (*TEXT.sizes, *TEXT.details, *TEXT.fixed)}
    absent = {"conv_kernel_size": 0, "conv_act": "tanh"}
    found = {name: getattr(model.config, name, absent.get(name)) for name in wanted}
    faults = [*_compare(found, wanted), *missing]
    return fill({"": encoder}, weights, LoadReport(source, 0, 0), "model.text_init", faults)


def fill_image_tower(encoder: ClipViT, source: str) -> LoadReport:
    """Fill the image tower from a transformers CLIP (name or folder) or an open_clip model.

    Args:
        encoder: the tower; its position table may be of another image size, it is resized then.
        source: ``openai/clip-vit-base-patch16``, or ``open_clip:ViT-B-16-quickgelu/openai`` (the part behind the
            slash is what open_clip calls pretrained: a tag or a local file).

    Raises:
        UserError: the model cannot be had, computes something else or does not fit the configured sizes.
    """
    wanted = {name: getattr(encoder.encoder.config, name) for name in ("num_attention_heads", *IMAGE.details)}
    if source.startswith(OPEN_CLIP):
        visual = _open_clip_visual(source)
        found, table, state = describe_open_clip(visual), OPEN_CLIP_VISUAL, split_projections(visual.state_dict())
        missing: list[str] = []
    else:
        model, missing = _load(CLIPVisionModel, source)
        found = {name: getattr(model.config, name) for name in wanted}
        table, state = TRANSFORMERS_CLIP, model.state_dict()
    renamed = translate(state, table)
    faults = [*_compare(found, wanted), *missing, *(f"{key} is unknown here" for key in renamed.unknown)]
    weights, cut = _cut(renamed.weights, len(encoder.layers))
    report = LoadReport(source, 0, 0, dropped=(*renamed.dropped, *cut))
    return fill({"": encoder}, weights, report, "model.image_init", faults)


def _cut(weights: Mapping[str, Tensor], layers: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Leave out the last block where the encoder has just one less, as METER cuts CLIP; name what was left out."""
    last = f"encoder.layers.{layers}."
    if any(key.startswith(f"encoder.layers.{layers + 1}.") for key in weights):
        return dict(weights), ()
    kept = {key: value for key, value in weights.items() if not key.startswith(last)}
    return kept, () if len(kept) == len(weights) else (f"block {layers}, the last one",)


def _load(kind: type[Any], source: str) -> tuple[Any, list[str]]:
    """Load a transformers model, and name what its file lacks: transformers would draw that at random."""
    # no code of a folder is run, and nobody is asked whether it may be
    model, info = _get(source, lambda: kind.from_pretrained(source, output_loading_info=True, trust_remote_code=False))
    lacking = {name: "is missing" for name in info["missing_keys"]}
    lacking |= {name[0]: "has another shape" for name in info["mismatched_keys"]}
    return model, [f"{name} {what}" for name, what in sorted(lacking.items())]


def _open_clip_visual(source: str) -> nn.Module:
    architecture, _, pretrained = source.removeprefix(OPEN_CLIP).partition("/")
    if architecture not in open_clip.list_models():
        raise UserError(f"model.image_init: open_clip has no model '{architecture}' (see open_clip.list_models())")
    if not pretrained:
        raise UserError(f"model.image_init: {source} names no weights; add /TAG or /FILE, as in {source}/openai")
    visual: nn.Module = _get(source, lambda: open_clip.create_model(architecture, pretrained=pretrained).visual)
    is_transformer: bool = isinstance(visual, open_clip.transformer.VisionTransformer)
    if not is_transformer:
        raise UserError(f"model.image_init: {source} is not a vision transformer but a {type(visual).__name__}")
    return visual


def describe_open_clip(visual: nn.Module) -> dict[str, object]:
    """Say what an open_clip vision transformer computes, in the words of transformers' configuration."""
    block = visual.get_submodule("transformer.resblocks.0")
    activation = type(block.get_submodule("mlp.gelu")).__name__
    return {
        "num_attention_heads": getattr(block.get_submodule("attn"), "num_heads", None),
        "hidden_act": {"GELU": "gelu", "QuickGELU": "quick_gelu"}.get(activation, activation),
        "layer_norm_eps": getattr(block.get_submodule("ln_1"), "eps", None),
    }


def split_projections(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split each fused ``in_proj_weight`` (3D, D) and ``in_proj_bias`` (3D,) into query, key and value."""
    split = {}
    for key, value in weights.items():
        if ".in_proj_" not in key or value.dim() == 0 or len(value) % 3:
            split[key] = value
            continue
        stem, kind = key.rsplit(".in_proj_", 1)
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            split[f"{stem}.{letter}_proj.{kind}"] = part
    return split


def join_projections(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join each query, key and value to a fused ``in_proj_weight`` and ``in_proj_bias``: the way back."""
    joined = {}
    for key, value in weights.items():
        match = re.fullmatch(r"(.*)\.(q|k|v)_proj\.(weight|bias)", key)
        if match is None or "resblocks" not in key:
            joined[key] = value
        elif match[2] == "q":
            parts = [weights[f"{match[1]}.{letter}_proj.{match[3]}"] for letter in "qkv"]
            joined[f"{match[1]}.in_proj_{match[3]}"] = torch.cat(parts)
    return joined


def _compare(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Name the options whose difference no tensor's shape would show."""
    return [
        f"{name} is {found[name]!r}, the model has {value!r}"
        for name, value in wanted.items()
        if name not in DROPOUTS and name in found and _plain(found[name]) != _plain(value)
    ]


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, list | tuple) else value  # pos_att_type has no order


def _get(source: str, build: Callable[[], Loaded]) -> Loaded:
    try:
        return build()
    except BROKEN as error:
        raise UserError(f"{source} cannot be loaded (no such model, or no network?): {error}") from error


def fill_hf_text(encoder: HFTextEncoder, source: str) -> LoadReport:
    """Fill a text encoder from the same type of model of transformers, by name or folder; its pooler is left out.

    Raises:
        UserError: the model cannot be had, is of another type or does not fit the configured sizes.
    """
    model, missing = _load(AutoModel, source)
    ours, theirs = encoder.model.config, model.config
    if theirs.model_type != ours.model_type:
        raise UserError(f"model.text_init: {source} is a {theirs.model_type}, the text encoder a {ours.model_type}")
    plain = AutoConfig.for_model(ours.model_type)  # fields beyond these, in files of older versions, change nothing
    told = {*ours.to_diff_dict(), *theirs.to_diff_dict()} - HF_FREE
    names = {name for name in told if hasattr(plain, name)} | FORMER.keys()
    sides = ({name: getattr(config, name, FORMER.get(name)) for name in names} for config in (theirs, ours))
    faults = _compare(*sides)
    faults += [fault for fault in missing if not fault.startswith("pooler.")]
    weights = {f"model.{key}": value for key, value in model.state_dict().items() if not key.startswith("pooler.")}
    dropped = tuple(key for key in model.state_dict() if key.startswith("pooler."))
    return fill({"": encoder}, weights, LoadReport(source, 0, 0, dropped=dropped), "model.text_init", faults)


def fill_word_embeddings(encoder: WordEmbeddings, source: str) -> LoadReport:
    """Fill words and positions from a BERT, by name or folder; its layers are left out.

    Raises:
        UserError: the model cannot be had, has no such embeddings or does not fit the configured sizes.
    """
    model, missing = _load(AutoModel, source)
    found = {key.removeprefix("embeddings."): value for key, value in model.state_dict().items()}
    if not {*BERT_EMBEDDINGS, "token_type_embeddings.weight"} <= found.keys():
        raise UserError(f"model.text_init: {source} ({model.config.model_type}) has not the embeddings of a BERT")
    places = model.get_submodule("embeddings.position_embeddings")
    faults = _compare({"layer_norm_eps": model.config.layer_norm_eps}, {"layer_norm_eps": encoder.norm_eps})
    faults += [fault for fault in missing if fault.startswith("embeddings.")]
    if getattr(places, "padding_idx", None) is not None:  # of RoBERTa's kind
        faults.append(f"a {model.config.model_type} counts positions from behind its padding id, the model from 0")
    weights = {ours: found[theirs] for theirs, ours in BERT_EMBEDDINGS.items()}
    weights["positions.weight"] = weights["positions.weight"] + found["token_type_embeddings.weight"][0]
    report = LoadReport(source, 0, 0, dropped=(f"{model.config.num_hidden_layers} layers",))
    return fill({"": encoder}, weights, report, "model.text_init", faults)


def fill_timm(encoder: TimmImageEncoder, source: str) -> LoadReport:
    """Fill an image encoder of timm: ``timm:NAME`` takes timm's own weights, all else is a file of that architecture.

    timm's own filter resizes position and bias tables, and gives older layouts its own names. Its loader is not used on
    a file: where a model has no classifier it draws at random what the file lacks.

    Raises:
        UserError: there are no such weights, the file would run code, or they do not fit.
    """
    if source.startswith(TIMM):
        name = source.removeprefix(TIMM)
        state: Mapping[str, Tensor] = _get(source, lambda: encoder.twin(name, pretrained=True)).state_dict()
    else:
        content = _read_timm(Path(source))
        module = import_module(model_entrypoint(encoder.config.name).__module__)
        state = _get(source, lambda: module.checkpoint_filter_fn(content, encoder.model))
    classifiers = encoder.model.pretrained_cfg["classifier"]
    heads = tuple(f"{name}." for name in ([classifiers] if isinstance(classifiers, str) else classifiers))
    weights = {f"model.{key}": value for key, value in state.items() if not key.startswith(heads)}
    dropped = tuple(key for key in state if key.startswith(heads))
    return fill({"": encoder}, weights, LoadReport(source, 0, 0, dropped=dropped), "model.image_init")


def _read_timm(file: Path) -> dict[str, Any]:
    """Read a file of weights; the original ones of Swin and DeiT hold them under ``model``."""
    if not file.is_file():
        raise UserError(f"model.image_init: there is no file {file}; name one, or {TIMM}NAME for weights of timm's")
    if file.suffix == ".safetensors":
        return dict(read_weights(file, "model.image_init"))
    content = read_plain(file, "model.image_init")
    for key in ("model", "state_dict"):
        content = content[key] if isinstance(content.get(key), dict) else content
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


BACKBONES: dict[type[Backbone], Callable[[Any, str, str], LoadReport]] = {MoME: fill_mome}
FILLERS: dict[type[nn.Module], Callable[[Any, str], LoadReport]] = {
    DebertaEncoder: fill_text_tower,
    ClipViT: fill_image_tower,
    HFTextEncoder: fill_hf_text,
    WordEmbeddings: fill_word_embeddings,
    TimmImageEncoder: fill_timm,
}
