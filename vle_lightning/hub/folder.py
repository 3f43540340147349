"""Finding a published or exported model, on this machine or on the hub, and reading its tensors safely."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.integrity import check_integrity
from vle_lightning.hub.sharded import is_sharded, read_sharded

CONFIG, SAFETENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
WEIGHT_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
SMALL_FILES = ("*.json", "*.model", "*.txt")  # configuration and tokenizer
BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError)


class Inert:
    """Stands for a class of old libraries that a published checkpoint names beside its weights; it does nothing."""

    def __init__(self, *values: object, **options: object) -> None:
        """Keep nothing of the arguments."""
        del values, options


# what Lightning 1.3 and sacred leave in METER's checkpoints, and what stands for it: opening one imports and runs none
# of them. Of containers torch fills only its own kinds, no subclass
STAND_INS: dict[str, type[Any]] = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": Inert,
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor": Inert,
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": Inert,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "sacred.config.custom_containers.ReadOnlyDict": OrderedDict,
    "sacred.config.custom_containers.ReadOnlyList": list,
    "sacred.config.custom_containers.DogmaticDict": OrderedDict,
}


class ModelFolder(NamedTuple):
    """A folder with a configuration and weights."""

    source: str  # as it was asked for
    path: Path
    config: dict[str, Any]


def find_folder(source: str | Path, option: str = "source") -> ModelFolder:
    """Find a model by folder or by hub name.

    The hub's cache is used, and ``HF_HUB_OFFLINE=1`` asks nothing of the network.

    Args:
        source: a folder with config.json, or ``OWNER/NAME`` on the hub, ``OWNER/NAME@REVISION`` for one state of it.
        option: what to call the source in messages.

    Raises:
        UserError: there is no such folder or model, or it has no readable config.json.
    """
    path = Path(source)
    if not path.is_dir():
        named = as_hub_name(source)
        if named is None:
            kind = "is a file, not a folder with config.json" if path.is_file() else "does not exist"
            raise UserError(f"{option}: {source} {kind}; name a model's folder, or OWNER/NAME on the hub")
        path = download(*named, option)
    return ModelFolder(str(source), path, read_json(path / CONFIG, option))


def as_hub_name(source: str | Path) -> tuple[str, str | None] | None:
    """Split ``OWNER/NAME@REVISION``; None for what can only be meant as a path on this machine."""
    match = HUB_NAME.fullmatch(source) if isinstance(source, str) else None
    if match is None or Path(match["name"]).suffix in WEIGHT_SUFFIXES or Path(match["name"]).parent.is_dir():
        return None
    return match["name"], match["revision"]


def download(name: str, revision: str | None, option: str) -> Path:
    """Return the folder in the hub's cache that holds a model, after fetching what is not there yet.

    Raises:
        UserError: there is no such model, or it is not in the cache and the hub cannot be reached.
    """
    try:
        # safetensors first: a repository that has both forms need not be fetched twice
        path = _fetch(name, revision, "model*.safetensors")
        if not any(path.glob("model*.safetensors")):
            path = _fetch(name, revision, "pytorch_model*.bin")
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{option}: {name} is neither a folder here nor a model that the hub hands out (no such name, a private "
            f"one, or no network and not in the cache): {reason}"
        ) from error
    return path


def _fetch(name: str, revision: str | None, weights: str) -> Path:
    # huggingface_hub 1 asks the network for the list of a commit's files even offline, unless it is told not to
    offline = constants.HF_HUB_OFFLINE
    patterns = [*SMALL_FILES, weights]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))


def read_json(file: Path, option: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if not file.is_file():
        raise UserError(f"{option}: {file.parent} has no {file.name}; name a model's folder, or a checkpoint file")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{option}: {file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{option}: {file} must hold a JSON object, not a {type(content).__name__}")
    return content


def read_weights(path: Path, option: str = "source") -> dict[str, Tensor]:
    """Read the tensors of a folder or of one file, running nothing that the file may contain.

    Args:
        path: a folder with model.safetensors or pytorch_model.bin, whole or in shards; or a file of either kind, or
            a Lightning checkpoint, whose ``state_dict`` is meant.
        option: what to call the source in messages.

    Raises:
        UserError: there is no such file, it is damaged, it would run code, or it holds other things than tensors.
    """
    if not path.is_dir():
        return _read_file(path, option)
    for name in (SAFETENSORS, PICKLE):
        if (path / name).is_file():
            return _read_file(path / name, option)
        index = path / f"{name}.index.json"
        if index.is_file():
            return _read_shards(index, option)
    raise UserError(f"{option}: {path} holds neither {SAFETENSORS} nor {PICKLE}, whole or in shards")


def _read_shards(index: Path, option: str) -> dict[str, Tensor]:
    places = read_json(index, option).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{option}: {index} has no 'weight_map' from tensors to files")
    names = sorted(set(places.values()))
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{option}: {index} names files that are not beside it: {', '.join(missing)}; fetch them again")
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= _read_file(index.parent / name, option)
    lost = sorted(places.keys() - weights.keys())
    if lost:
        raise UserError(f"{option}: the files that {index} names lack {len(lost)} tensors: {', '.join(lost[:10])}")
    return weights


def _read_file(file: Path, option: str) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        if not file.is_file():
            raise UserError(f"{option}: there is no file {file}")
        try:
            return load_file(file)
        except (SafetensorError, *BROKEN) as error:
            raise UserError(
                f"{option}: {file} cannot be read as safetensors (cut short? fetch it again): {error}"
            ) from error
    content = read_plain(file, option)
    weights = content.get("state_dict", content)
    if not isinstance(weights, dict):
        raise UserError(f"{option}: the state_dict of {file} is a {type(weights).__name__}, not tensors by name")
    strange = [str(k) for k, v in weights.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if strange:
        raise UserError(f"{option}: {file} holds other things than tensors under {', '.join(strange[:10])}")
    return dict(weights)


def not_finite(weights: Mapping[str, object]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity, which no training leaves in a sound model."""
    return [
        name
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def read_plain(file: Path, option: str) -> dict[str, Any]:
    """Read a file of ``torch.save`` that holds tensors and plain Python data, and nothing that runs.

    A folder that several ranks have written parts of counts as the one file that it is in effect.

    Raises:
        UserError: there is no such file, it is damaged, or it would run code.
    """
    if is_sharded(file):
        return read_sharded(file, option)
    if not file.is_file():
        raise UserError(f"{option}: there is no checkpoint at {file}; train one (make pretrain) or name another")
    check_integrity(file, option)
    try:
        # mapped: what is never asked for, the moments say, is not held in memory
        with torch.serialization.safe_globals([(kind, name) for name, kind in STAND_INS.items()]):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except BROKEN as error:
        # the text of torch advises to load the file all the same: only the name of what would run is handed on
        called = re.search(r"(?:Unsupported global: GLOBAL|Unsupported global:|GLOBAL) `?([\w.]+)", str(error))
        if called:
            reason = f"it is refused: opening it could run code ({called[1]}), and nothing of it was run"
        elif "Weights only load failed" in str(error):
            reason = "it is damaged, or holds more than plain data; nothing of it was run"
        else:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{option}: {file} cannot be read as a checkpoint of tensors: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{option}: {file} holds a {type(content).__name__}, not tensors by name")
    return content
