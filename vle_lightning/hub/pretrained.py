"""One way in for every source of weights: a run, a checkpoint, an exported folder, a published one, a hub name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import differences, read_architecture, to_plain
from vle_lightning.hub.beit import is_beit
from vle_lightning.hub.filling import LoadReport, fill
from vle_lightning.hub.folder import (
    CONFIG,
    PICKLE,
    SAFETENSORS,
    WEIGHT_SUFFIXES,
    ModelFolder,
    as_hub_name,
    find_folder,
    read_plain,
    read_weights,
)
from vle_lightning.hub.meter import FILE as METER_FILE
from vle_lightning.hub.meter import is_meter, is_meter_config, meter_name, read_meter
from vle_lightning.hub.own import CARRIED, ENCODER, FORMAT, Description, from_plain, guess_heads, sort_weights
from vle_lightning.hub.sharded import is_sharded
from vle_lightning.hub.vle import (
    VQA_HEAD,
    encoder_config,
    is_vle,
    label_names,
    published_name,
    read_vle,
)
from vle_lightning.hub.vlmo import FILE as VLMO_FILE
from vle_lightning.hub.vlmo import is_vlmo, is_vlmo_config, read_vlmo, unwrap, vlmo_name
from vle_lightning.models.backbone import Adapted, Backbone, BackboneConfig, Blind

BEST = "best.ckpt"
TYPES = "token_types.weight"
LARGER, SMALL = 10, 10_000_000  # a description may be so many times as large as its weights, or as a small model


class Pretrained(NamedTuple):
    """What a source holds, by the names used here."""

    source: str
    description: Description
    encoder: dict[str, Tensor]
    heads: dict[str, dict[str, Tensor]]  # by published name, then by the name inside of the head
    dropped: tuple[str, ...]  # what has no place in any model here
    unknown: tuple[str, ...]  # tensors that no table names
    layout: str = "own"  # or vle, meter, vlmo
    carried: Mapping[str, Tensor] = {}  # by the names of a published layout: read by no model, written back as it was

    def named(self, name: str) -> str:
        """Return the source's own name of a tensor: of the encoder, or ``HEAD.`` and the name inside of it."""
        if self.layout != "own":
            return {"vle": published_name, "meter": meter_name, "vlmo": vlmo_name}[self.layout](name)
        head, _, rest = name.partition(".")
        place = self.description.heads.get(head)
        return ENCODER + name if place is None else f"{place}.{rest}"


def load_pretrained(
    source: str | Path, encoder: Backbone, heads: Mapping[str, nn.Module], option: str = "source"
) -> LoadReport:
    """Fill an encoder and heads from any source.

    Args:
        source: a .ckpt file, a run folder, an exported folder, a published VLE folder or its hub name.
        encoder: its position table may be of another image size, it is resized then.
        heads: by published name (see ``VLE_HEADS``); one that the source does not hold stays as it is and is reported
            as new, one that is not asked for is reported as dropped.
        option: of the experiment file, for messages.

    Raises:
        UserError: the source cannot be read, describes another network, or a tensor is missing, unknown, of another
            shape or not of floats; each is listed.
    """
    return fill_pretrained(read_pretrained(source, option), encoder, heads, option)


def from_pretrained(source: str | Path) -> tuple[Backbone, LoadReport]:
    """Build the encoder that a source describes, and fill it.

    Raises:
        UserError: as `load_pretrained` does, and where the source does not say how large the encoder is.
    """
    pretrained = read_pretrained(source)
    blind: Blind = pretrained.description.options.get("blind", "none")
    encoder = architecture_of(pretrained).build(blind)
    return encoder, fill_pretrained(pretrained, encoder, {}, "source")


def architecture_of(pretrained: Pretrained) -> BackboneConfig:
    """Return the sizes of the encoder.

    Raises:
        UserError: the source does not say.
    """
    if pretrained.description.architecture is None:
        raise UserError(f"{pretrained.source} does not say its architecture; give it")
    return pretrained.description.architecture


def read_pretrained(source: str | Path, option: str = "source") -> Pretrained:
    """Read a source of any kind.

    Raises:
        UserError: there is no such source, or it cannot be read, or it is of a kind that is not known.
    """
    path = Path(source)
    if path.is_dir() and not (path / CONFIG).exists():
        path = next((path / name for name in (BEST, METER_FILE, VLMO_FILE) if (path / name).exists()), path)
    if path.is_file() or path.suffix in WEIGHT_SUFFIXES or is_sharded(path):
        return _read_checkpoint(path, str(source), option)
    if path.is_dir() and not (path / CONFIG).exists() and not any((path / f).exists() for f in (SAFETENSORS, PICKLE)):
        raise UserError(f"{option}: there is no checkpoint at {path / BEST}; train one (make pretrain) or name another")
    if not path.is_dir() and as_hub_name(source) is None:
        raise UserError(f"{option}: there is no checkpoint at {path}; train one (make pretrain) or name another")
    folder = find_folder(source, option)
    if is_vle(folder.config):
        return _within_reason(_published(folder, option), option)
    if is_meter_config(folder.config):
        options = {**folder.config["config"], "text": folder.config["text"]}
        weights = read_weights(folder.path, option)
        return _within_reason(_meter(weights, options, folder.source, f"{option}: {folder.path}"), option)
    if is_vlmo_config(folder.config):
        weights = read_weights(folder.path, option)
        return _within_reason(_vlmo(weights, folder.config, folder.source, f"{option}: {folder.path}"), option)
    if folder.config.get("format") != FORMAT:
        kind = folder.config.get("model_type", folder.config.get("format"))
        raise UserError(f"{option}: {folder.path / CONFIG} describes a {kind!r}; a VLE or an export of ours is needed")
    description = from_plain(folder.config, f"{option}: {folder.path / CONFIG}")
    return _within_reason(_own(folder.source, description, read_weights(folder.path, option)), option)


def _published(folder: ModelFolder, option: str) -> Pretrained:
    where = f"{option}: {folder.path / CONFIG}"
    architecture = encoder_config(folder.config, where)
    names = label_names(folder.config, where)  # told to be wrong even where no head has a use for them
    found = read_vle(read_weights(folder.path, option), folder.config)
    labels = names if VQA_HEAD in found.heads else None
    answers = found.heads.get(VQA_HEAD, {}).get("3.bias")
    if labels is not None and answers is not None and len(labels) != len(answers):
        raise UserError(f"{where} names {len(labels)} answers in id2label, but {VQA_HEAD} has {len(answers)}")
    description = Description(architecture=architecture, labels=labels, published=found.published)
    return Pretrained(folder.source, description, found.encoder, found.heads, found.dropped, found.unknown, "vle")


def _meter(weights: Mapping[str, Tensor], options: object, source: str, where: str) -> Pretrained:
    """Read a METER checkpoint, or a folder that holds one beside its encoders' sizes."""
    found = read_meter(weights, options if isinstance(options, Mapping) else {}, where)
    architecture = read_architecture(to_plain(found.architecture), f"{where}: what it says of itself")
    description = Description(architecture=architecture)
    return Pretrained(source, description, found.encoder, found.heads, found.dropped, found.unknown, "meter")


def _vlmo(weights: Mapping[str, Tensor], options: Mapping[str, object], source: str, where: str) -> Pretrained:
    """Read a VLMo checkpoint, or a folder that holds one beside its sizes."""
    found = read_vlmo(weights, options, where)
    architecture = read_architecture(to_plain(found.architecture), f"{where}: what its tensors tell")
    description = Description(architecture=architecture)
    encoder, heads = found.encoder, found.heads
    return Pretrained(source, description, encoder, heads, found.dropped, found.unknown, "vlmo", found.carried)


def _read_checkpoint(file: Path, source: str, option: str) -> Pretrained:
    if file.suffix == ".safetensors":
        raise UserError(f"{option}: {file} does not say what it is; name its folder, with config.json")
    content = read_plain(file, option)
    if is_vlmo(bare := unwrap(content)):
        stored = content.get("hyper_parameters")
        told = stored if isinstance(stored, Mapping) else {}
        return _within_reason(_vlmo(bare, told, source, f"{option}: {file}"), option)
    if is_beit(bare):
        raise UserError(f"{option}: {file} is a BEiT, of images alone; a model of experts starts from it by image_init")
    weights = content.get("state_dict")
    if not isinstance(weights, dict):
        raise UserError(
            f"{option}: {file} is not a Lightning checkpoint: it has no 'state_dict' "
            "(of a published one, name the folder)"
        )
    if is_meter(weights):
        stored = content.get("hyper_parameters")
        options = stored.get("config") if isinstance(stored, Mapping) else None
        return _within_reason(_meter(weights, options, source, f"{option}: {file}"), option)
    known = {"format_version", *(f.name for f in fields(Description))}
    description = from_plain({key: value for key, value in content.items() if key in known}, f"{option}: {file}")
    carried = content.get(CARRIED.rstrip("."))
    return _within_reason(_own(source, description, weights, carried if isinstance(carried, dict) else {}), option)


def _within_reason(pretrained: Pretrained, option: str) -> Pretrained:
    """Refuse a description of a network far larger than its weights: to build it first could take all memory."""
    config = pretrained.description.architecture
    if config is None:
        return pretrained
    described = config.least_weights()
    held = sum(value.numel() for value in pretrained.encoder.values())
    if described > LARGER * (held + SMALL):
        raise UserError(
            f"{option}: {pretrained.source} describes an encoder of at least {described:,} parameters, but holds "
            f"{held:,}; is a width, a number of layers or the vocabulary wrong in its architecture?"
        )
    return pretrained


def _own(
    source: str, description: Description, content: Mapping[str, Tensor], carried: Mapping[str, Tensor] | None = None
) -> Pretrained:
    beside = {key.removeprefix(CARRIED): value for key, value in content.items() if key.startswith(CARRIED)}
    weights = {key: value for key, value in content.items() if not key.startswith(CARRIED)}
    kept = {**(carried or {}), **beside}
    if not description.heads:
        description = replace(description, heads=guess_heads(weights))
        found = sort_weights(weights, description.heads)
        dropped = (*found.dropped, *found.retired)
        return Pretrained(source, description, found.encoder, found.heads, dropped, (), carried=kept)
    found = sort_weights(weights, description.heads)
    places = tuple(f"{place}." for place in (ENCODER.rstrip("."), *description.heads.values()))
    unknown = tuple(key for key in weights if not key.startswith(places))  # for all heads are named
    heads = {name: head for name, head in found.heads.items() if name not in description.untrained}
    return Pretrained(source, description, found.encoder, heads, found.retired, unknown, carried=kept)


def fill_pretrained(
    pretrained: Pretrained, encoder: Backbone, heads: Mapping[str, nn.Module], option: str
) -> LoadReport:
    """Fill an encoder and heads from what was read; see `load_pretrained`."""
    found = {name: head for name, head in heads.items() if name in pretrained.heads}
    weights = dict(pretrained.encoder)
    theirs = pretrained.description.architecture
    adapted = Adapted(weights) if theirs is None else encoder.adapt(weights, theirs)
    weights = adapted.weights
    for name in found:
        weights |= {f"{name}.{key}": value for key, value in pretrained.heads[name].items()}
    dropped = (*(name for name in pretrained.heads if name not in heads), *pretrained.dropped)
    new = tuple(name for name in heads if name not in pretrained.heads)
    faults = [f"{key} is unknown here" for key in pretrained.unknown]
    if theirs is not None:
        settled = tuple(f"architecture.{option} is " for option in adapted.settled)
        faults += [fault for fault in differences(theirs, encoder.config) if not fault.startswith(settled)]
    grown = (*adapted.resized, *_with_more_types(weights, encoder, faults))
    drawn = [key for keys in adapted.new.values() for key in keys]
    parts = {"": encoder, **{f"{name}.": head for name, head in found.items()}}
    report = LoadReport(pretrained.source, -len(drawn), -sum(weights[key].numel() for key in drawn), dropped=dropped)
    report = report._replace(new=(*new, *adapted.new))
    own = encoder.config.image_size
    if theirs is None or theirs.image_size == own or faults:
        report = _filled(parts, weights, report, option, faults, pretrained)
        return report._replace(resized=(*report.resized, *grown))
    encoder.reshape_images(theirs.image_size)  # its positions are learned at the source's size, and interpolated then
    report = _filled({**parts, "": encoder}, weights, report, option, faults, pretrained)
    try:
        encoder.resize_images(own)
    except UserError as error:
        raise UserError(f"{option}: {pretrained.source}: {error}") from error
    sizes = f"the image encoder's positions from {theirs.image_size} to {own} pixels"
    return report._replace(resized=(sizes, *grown))


def _filled(
    parts: Mapping[str, nn.Module],
    weights: Mapping[str, Tensor],
    report: LoadReport,
    option: str,
    faults: Sequence[str],
    pretrained: Pretrained,
) -> LoadReport:
    """Fill all parts; what a report has counted already, below zero what is not of the source, is added."""
    filled = fill(parts, weights, report, option, faults, pretrained.named)
    return filled._replace(tensors=filled.tensors + report.tensors, parameters=filled.parameters + report.parameters)


def _with_more_types(weights: dict[str, Tensor], encoder: Backbone, faults: list[str]) -> tuple[str, ...]:
    """Let a model have more token types than its source, as NLVR2's second image needs: the further ones stay."""
    own, given = encoder.state_dict().get(TYPES), weights.get(TYPES)
    if own is None or given is None or own.shape[1:] != given.shape[1:] or len(given) >= len(own):
        return ()
    known = [fault for fault in faults if fault.startswith(f"architecture.{encoder.types_option} is {len(given)}, ")]
    if not known:  # the table is not what its source says of itself
        return ()
    faults.remove(known[0])
    weights[TYPES] = torch.cat([given, own[len(given) :].to(given.dtype)])
    return (f"the token types from {len(given)} to {len(own)}",)
