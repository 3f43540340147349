"""The config.json of the published VLE checkpoints, read into the sizes of our encoder and written from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from vle_lightning.encoders.image import ImageConfig
from vle_lightning.encoders.text import TextConfig
from vle_lightning.errors import UserError
from vle_lightning.fusion.co_attention import FusionConfig
from vle_lightning.models.dual_stream import DualStreamConfig

INIT_STD = "initializer_range"
SECTIONS = ("text_config", "vision_config")
ARCHITECTURES = {  # head -> the authors' class that reads it; they name none for the pre-training heads
    "vqa_classifier": "VLEForVQA",
    "vcr_q2a_logit": "VLEForVCRQ2A",
    "vcr_qa2r_logit": "VLEForVCRQA2R",
}

# What every transformers 4.26 configuration writes about itself, with the values that it writes.
COMMON: dict[str, Any] = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "begin_suppress_tokens": None, "bos_token_id": None, "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None, "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": None,
    "exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20,
    "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": None,
    "prefix": None, "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None,
    "suppress_tokens": None, "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0,
    "torch_dtype": None, "torchscript": False, "transformers_version": "4.26.0", "typical_p": 1.0,
    "use_bfloat16": False,
}  # fmt: skip
OTHER_RELEASES = {
    "dtype",
    "name_or_path",
    "use_cache",
    "attn_implementation",
    "_attn_implementation_autoset",
    "auto_map",
}


class Section(NamedTuple):
    """One part of a config.json."""

    sizes: Mapping[str, str]  # option -> field of our dataclass; all must be there
    details: Mapping[str, str]  # likewise, where our default is that of transformers
    fixed: Mapping[str, tuple[object, ...]]  # option -> the values that are computed here; all must be there
    assumed: Mapping[str, tuple[object, ...]]  # likewise, where absence means the first
    harmless: Mapping[str, Any]  # options that change no number here, with what a new file says


FUSION = Section(
    sizes={
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "intermediate",
        "num_token_types": "token_types",
    },
    details={
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "layer_norm_eps",
    },
    fixed={"model_type": ("vle",)},
    assumed={"hidden_act": ("gelu",), "pruned_heads": ({},)},
    harmless={"_commit_hash": None, "classifier_dropout": None, INIT_STD: 0.02, "transformers_version": None},
)
TEXT = Section(
    sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "intermediate",
        "position_buckets": "position_buckets",
        "max_position_embeddings": "max_positions",
    },
    details={
        "max_relative_positions": "max_relative_positions",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "layer_norm_eps",
        "conv_kernel_size": "conv_kernel",
        "conv_act": "conv_activation",
    },
    fixed={
        "relative_attention": (True,),
        "share_att_key": (True,),
        "norm_rel_ebd": ("layer_norm",),
        "position_biased_input": (False,),
        "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c"),
    },
    assumed={
        "model_type": ("deberta-v2",),
        "hidden_act": ("gelu",),
        "type_vocab_size": (0,),
        "pad_token_id": (0,),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({},),
    },
    harmless={INIT_STD: 0.02, "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": None},
)
IMAGE = Section(
    sizes={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "intermediate",
    },
    details={"hidden_act": "activation", "attention_dropout": "dropout", "layer_norm_eps": "layer_norm_eps"},
    fixed={},
    assumed={"model_type": ("clip_vision_model",), "num_channels": (3,), "pruned_heads": ({},)},
    # CLIP's vision tower reads no "dropout"; its projection is not part of VLE
    harmless={INIT_STD: 0.02, "dropout": 0.0, "initializer_factor": 1.0, "projection_dim": 512},
)


def is_vle(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a published VLE?"""
    return config.get("model_type") == "vle"


def encoder_config(config: Mapping[str, Any], source: str = "config.json") -> DualStreamConfig:
    """Read the sizes of the encoder from a published config.json.

    Raises:
        UserError: an option is missing, has a value that is not computed here, or is unknown; each is listed.
    """
    faults: list[str] = []
    text, image, fusion = (_read(*part, faults) for part in _parts(config, source))
    if faults:
        raise UserError(f"{source} describes a network that is not built here:\n  " + "\n  ".join(faults))
    return DualStreamConfig(
        TextConfig(**text), ImageConfig(**image), FusionConfig(**fusion), init_std=config.get(INIT_STD, 0.02)
    )


def published_config(
    config: DualStreamConfig, base: Mapping[str, Any] | None, heads: Iterable[str], labels: Sequence[str] | None
) -> dict[str, Any]:
    """Write a config.json.

    Args:
        config: the sizes of the encoder.
        base: the config.json that the model started from: what fits stays as it is, down to the spelling.
        heads: published names of the heads that come with it.
        labels: names of the answers, for that class.
    """
    written = deepcopy(dict(base)) if base is not None else _new_config(config)
    if written.get(INIT_STD, 0.02) != config.init_std:
        written[INIT_STD] = config.init_std
    ours: tuple[TextConfig | ImageConfig | FusionConfig, ...] = (config.text, config.image, config.fusion)
    for own, (values, _, section) in zip(ours, _parts(written, "config.json"), strict=True):
        for option, name in {**section.sizes, **section.details}.items():
            value = getattr(own, name)
            if name == "attention_dropout" and value is None and option in values:
                value = own.dropout
            if values.get(option, getattr(type(own), name)) != value:
                values[option] = value
    named = [ARCHITECTURES[head] for head in heads if head in ARCHITECTURES]
    if named:
        written["architectures"] = named
    elif set(written.get("architectures") or ()) & set(ARCHITECTURES.values()):
        del written["architectures"]
    if labels is not None and list(labels) != label_names(written):
        written["id2label"] = {str(number): label for number, label in enumerate(labels)}
        written["label2id"] = {label: number for number, label in enumerate(labels)}
    return written


def label_names(config: Mapping[str, Any]) -> list[str] | None:
    """Return the answers that a config.json names, in the order of their numbers."""
    names = config.get("id2label")
    return None if names is None else [names[key] for key in sorted(names, key=int)]


Part = tuple[dict[str, Any], str, Section]


def _parts(config: Mapping[str, Any], source: str) -> tuple[Part, Part, Part]:
    text, image = (config.get(name) for name in SECTIONS)
    if not isinstance(text, dict) or not isinstance(image, dict):
        raise UserError(f"{source} must hold the objects {' and '.join(SECTIONS)}, as VLE's config.json does")
    assert isinstance(config, dict)
    return (text, "text_config.", TEXT), (image, "vision_config.", IMAGE), (config, "", FUSION)


def _read(values: Mapping[str, Any], where: str, section: Section, faults: list[str]) -> dict[str, Any]:
    known = {*section.sizes, *section.details, *section.fixed, *section.assumed, *section.harmless, *COMMON}
    for name, value in values.items():
        if name not in known | OTHER_RELEASES and not (name in SECTIONS and not where):
            faults.append(f"{where}{name} = {value!r} is not known here, and may change the network")
        allowed = section.fixed.get(name, section.assumed.get(name))
        if allowed is not None and value not in allowed:
            faults.append(f"{where}{name} = {value!r}: only {allowed[0]!r} is built here")
    faults += [f"{where}{name} is missing" for name in (*section.sizes, *section.fixed) if name not in values]
    fields = {**section.sizes, **section.details}
    return {name: values[option] for option, name in fields.items() if option in values}


def _new_config(config: DualStreamConfig) -> dict[str, Any]:
    def section(part: Section, common: Mapping[str, Any]) -> dict[str, Any]:
        fixed = {name: values[0] for name, values in {**part.fixed, **part.assumed}.items()}
        sizes = dict.fromkeys((*part.sizes, *part.details))  # filled in by the caller
        return {**common, **part.harmless, **fixed, **sizes}

    written = section(FUSION, {})
    written["text_config"] = section(TEXT, COMMON) | {"pooler_hidden_size": config.text.width}
    written["vision_config"] = section(IMAGE, COMMON)
    for name in ("conv_kernel_size", "conv_act"):  # of DeBERTa-v2, not written where there is no convolution
        del written["text_config"][name]
    del written["pruned_heads"]
    return deepcopy(written)
