"""The config.json of the published VLE checkpoints, read into the sizes of our encoder and written from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.errors import UserError
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.hub.checks import fits, value_faults, with_floats
from vle_lightning.hub.vle_options import COMMON, FUSION, IMAGE, INIT_STD, OTHER_RELEASES, TEXT, Section
from vle_lightning.models.backbone import BackboneConfig
from vle_lightning.models.dual_stream import DualStreamConfig

SECTIONS = ("text_config", "vision_config")
DTYPES = ("torch_dtype", "dtype")  # the float type of the weights; the second since transformers 5
ARCHITECTURES = {  # head -> the authors' class that reads it; they name none for the pre-training heads
    "vqa_classifier": "VLEForVQA",
    "vcr_q2a_logit": "VLEForVCRQ2A",
    "vcr_qa2r_logit": "VLEForVCRQA2R",
}


def is_vle(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a published VLE?"""
    return config.get("model_type") == "vle"


def encoder_config(config: Mapping[str, Any], source: str = "config.json") -> DualStreamConfig:
    """Read the sizes of the encoder from a published config.json.

    Raises:
        UserError: an option is missing, has a value that cannot be or is not computed here, or is unknown; each is
            listed.
    """
    faults: list[str] = []
    text, image, fusion = (_read(*part, faults) for part in _parts(config, source))
    faults += value_faults(
        DualStreamConfig, {"init_std": config[INIT_STD]} if INIT_STD in config else {}, lambda _: INIT_STD
    )
    if not fits(config.get("architectures"), list[str] | None):
        faults.append(f"architectures = {config['architectures']!r}: give a list of names")
    if faults:
        raise UserError(f"{source} describes a network that is not built here:\n  " + "\n  ".join(faults))
    return DualStreamConfig(
        DebertaConfig(**with_floats(DebertaConfig, text)),
        ClipViTConfig(**with_floats(ClipViTConfig, image)),
        CoAttentionConfig(**with_floats(CoAttentionConfig, fusion)),
        init_std=config.get(INIT_STD, 0.02),
    )


def as_vle(config: BackboneConfig) -> DualStreamConfig:
    """Return the configuration, if the published layout has a place for each of its parts.

    Raises:
        UserError: a part is of another kind than VLE's, or images are pooled in another way.
    """
    if not isinstance(config, DualStreamConfig):
        raise UserError(f"VLE's layout holds a dual stream, not a {config.kind}; export it in ours")
    wanted = {"text": DebertaConfig, "image": ClipViTConfig, "fusion": CoAttentionConfig, "decoder": type(None)}
    for name, kind in wanted.items():
        part = getattr(config, name)
        if type(part) is not kind:
            raise UserError(f"VLE's layout has no place for model.architecture.{name} ({part.kind}); export it in ours")
    assert isinstance(config.image, ClipViTConfig)
    if config.image.pooling != "first":
        told = f"model.architecture.image.pooling ({config.image.pooling})"
        raise UserError(f"VLE's layout has no place for {told}; export it in ours")
    return config


def published_config(
    config: BackboneConfig, base: Mapping[str, Any] | None, heads: Iterable[str], labels: Sequence[str] | None
) -> dict[str, Any]:
    """Write a config.json.

    Args:
        config: the sizes of the encoder.
        base: the config.json that the model started from: what fits stays as it is, down to the spelling.
        heads: published names of the heads that come with it.
        labels: names of the answers, for that class.
    """
    config = as_vle(config)
    written = deepcopy(dict(base)) if base is not None else _new_config(config)
    if written.get(INIT_STD, 0.02) != config.init_std:
        written[INIT_STD] = config.init_std
    ours = (config.text, config.image, config.fusion)
    for own, (values, _, section) in zip(ours, _parts(written, "config.json"), strict=True):
        for option, name in {**section.sizes, **section.details}.items():
            value = getattr(own, name)
            if name == "attention_dropout" and value is None and option in values:
                value = getattr(own, "dropout", None)
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


def with_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return a config.json in which every float type that is named is that of the weights beside it."""
    name = str(dtype).removeprefix("torch.")
    written = {key: with_dtype(value, dtype) if key in SECTIONS else value for key, value in config.items()}
    for key in DTYPES:
        if written.get(key) not in (None, name, f"torch.{name}"):
            written[key] = name
    return written


def label_names(config: Mapping[str, Any], source: str = "config.json") -> list[str] | None:
    """Return the answers that a config.json names, in the order of their numbers.

    Raises:
        UserError: they are no texts, or not numbered 0, 1, 2, ...
    """
    names = config.get("id2label")
    if names is None:
        return None
    if not fits(names, dict[str, str]):
        raise UserError(f"{source}: id2label must be an object from numbers to texts")
    numbers = [str(number) for number in range(len(names))]
    if missing := [number for number in numbers if number not in names]:
        strange = sorted(names.keys() - set(numbers))
        raise UserError(
            f"{source}: id2label must be numbered from 0 to {len(names) - 1}; it lacks {', '.join(missing[:5])} "
            f"and has {', '.join(strange[:5])}"
        )
    return [names[number] for number in numbers]


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
    given = {name: values[option] for option, name in fields.items() if option in values}
    options = {name: option for option, name in fields.items()}
    # null is not a number here, though some fields take None: transformers computes something else then, or fails
    faults += [f"{where}{options[name]} is null; give a value" for name, value in given.items() if value is None]
    present = {name: value for name, value in given.items() if value is not None}
    faults += value_faults(section.kind, present, lambda name: where + options[name])
    return given


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
