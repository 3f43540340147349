"""Our own layouts: the checkpoint of a run, and the folder that an export writes (config.json, model.safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import read_architecture, refuse_unknown
from vle_lightning.hub.architecture import to_plain as plain_architecture
from vle_lightning.hub.checks import check_values
from vle_lightning.hub.folder import CONFIG, SAFETENSORS
from vle_lightning.hub.vle import Published, encoder_config, label_names
from vle_lightning.hub.vle_config import with_dtype
from vle_lightning.models.backbone import BackboneConfig, Blind

FORMAT, VERSION = "vle_lightning", 2  # 2: parts name their kind
ENCODER = "model."  # prefix of the encoder's tensors in a task
UNNAMED = {  # where the heads of the first checkpoints lie, which do not say so
    "objectives.itm.head": "itm_score",
    "objectives.mlm": "mlm_score",
    "objectives.pbc.head": "pbc_classifier",
    "objectives.mpc": "mpc",
}
CARRIED = "carried."  # before the names of a published layout: what no model reads, and is written back as it was
CONTRAST = "itc"
RETIRED = {"mpc": "head."}  # heads of earlier versions, and what their tensors' names begin with


@dataclass(frozen=True)
class Description:
    """What rebuilds a task around its weights; config.json holds just this."""

    task: str | None = None  # the task's module; None in a checkpoint that does not say
    architecture: BackboneConfig | None = None
    options: dict[str, Any] = field(default_factory=dict)  # of the task's constructor, such as answers or mode
    labels: list[str] | None = None  # names of the answers, or of MPC's classes
    heads: dict[str, str] = field(default_factory=dict)  # published name of a head -> its place in the task
    published: Published | None = None  # of the VLE folder that the encoder started from
    untrained: list[str] = field(default_factory=list)  # heads that are as they were drawn, and stay: as good as absent


@dataclass(frozen=True)
class _Shared:
    """What the options of every task hold beside its own."""

    blind: Blind = "none"


class OwnWeights(NamedTuple):
    """The tensors of a task, sorted."""

    encoder: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]  # by published name, then by the name inside of the head
    dropped: tuple[str, ...]  # heads that no published name stands for
    retired: tuple[str, ...]  # heads of earlier versions that read something else: today's start anew


def sort_weights(weights: Mapping[str, Tensor], heads: Mapping[str, str]) -> OwnWeights:
    """Sort the tensors of a task into its encoder and its heads."""
    encoder = {key.removeprefix(ENCODER): value for key, value in weights.items() if key.startswith(ENCODER)}
    rest = {key: value for key, value in weights.items() if not key.startswith(ENCODER)}
    sorted_heads: dict[str, dict[str, Tensor]] = {name: {} for name in heads}
    dropped = set()
    for key, value in rest.items():
        home = next((name for name, place in heads.items() if key.startswith(f"{place}.")), None)
        if home is None:
            dropped.add(key.split(".")[0])
        else:
            sorted_heads[home][key.removeprefix(f"{heads[home]}.")] = value
    retired = [n for n, part in RETIRED.items() if any(key.startswith(part) for key in sorted_heads.get(n, ()))]
    kept = _apart({name: head for name, head in sorted_heads.items() if name not in retired})
    told = tuple(f"{name} (of an earlier version, which read something else)" for name in retired)
    return OwnWeights(encoder, kept, tuple(sorted(dropped)), told)


def _apart(heads: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Part the ways of contrast, which were one head at first: ``single.`` is ``itc``, ``pair.`` is ``itc_pair``."""
    joined = heads.get(CONTRAST, {})
    if not any(key.startswith("single.") for key in joined):
        return heads
    parted = {
        name: {key.removeprefix(f"{way}."): value for key, value in joined.items() if key.startswith(f"{way}.")}
        for name, way in ((CONTRAST, "single"), (f"{CONTRAST}_pair", "pair"))
    }
    return {**heads, **{name: head for name, head in parted.items() if head}}


def guess_heads(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Name the heads of a checkpoint that does not, as the first ones did; VCR's two cannot be told apart."""
    places = {name: place for place, name in UNNAMED.items() if any(key.startswith(f"{place}.") for key in weights)}
    last = weights.get("head.3.bias")
    return places if last is None or len(last) == 1 else {**places, "vqa_classifier": "head"}


def to_plain(description: Description) -> dict[str, Any]:
    """Turn a description into JSON's types."""
    assert description.architecture is not None
    published = description.published
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "task": description.task,
        "architecture": plain_architecture(description.architecture),
        "options": description.options,
        "labels": description.labels,
        "heads": description.heads,
        "published": None if published is None else published._asdict(),
        "untrained": description.untrained,
    }


def from_plain(content: Mapping[str, Any], source: str) -> Description:
    """Read a description: a config.json of ours, or what a run's checkpoint holds of it.

    Raises:
        UserError: it is of a later format, holds what this code does not know, or a value that cannot be.
    """
    version = content.get("format_version", VERSION)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(f"{source} has format_version {version!r}; this code reads up to {VERSION}: update it")
    known = {"format", "format_version", *(f.name for f in fields(Description))}
    refuse_unknown(content, known, source)
    given = {key: value for key, value in content.items() if not (key in ("options", "heads") and value is None)}
    check_values(Description, given, source)
    architecture, published, options = content.get("architecture"), content.get("published"), given.get("options", {})
    check_values(_Shared, options, f"{source}: options")
    return Description(
        task=content.get("task"),
        architecture=None if architecture is None else read_architecture(architecture, f"{source}: architecture"),
        options=dict(options),
        labels=content.get("labels"),
        heads=dict(given.get("heads", {})),
        published=None if published is None else _read_published(published, f"{source}: published"),
        untrained=list(given.get("untrained", ())),
    )


def _read_published(content: Mapping[str, Any], where: str) -> Published:
    refuse_unknown(content, set(Published._fields), where)
    check_values(Published, content, where)
    if "config" not in content:
        raise UserError(f"{where} must hold the config of the folder that the model started from")
    encoder_config(content["config"], f"{where}.config")
    label_names(content["config"], f"{where}.config")
    return Published(**content)


def write_own(folder: Path, description: Description, weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors.

    Args:
        folder: is there.
        description: of the task.
        weights: by the task's names, tied ones once.
    """
    if description.published is not None:  # its float type may be another one: what is carried along must not lie
        config = with_dtype(description.published.config, _float_type(weights))
        description = replace(description, published=description.published._replace(config=config))
    text = json.dumps(to_plain(description), indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    tensors = {key: value.detach().contiguous() for key, value in weights.items()}
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})


def _float_type(weights: Mapping[str, Tensor]) -> torch.dtype:
    return next(value.dtype for value in weights.values() if value.is_floating_point())
