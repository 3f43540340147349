"""Checkpoint folders that every rank has written a part of, read as the one file that one process would have written.

Two kinds: torch's distributed form (torch.distributed.checkpoint, of FSDP2) and DeepSpeed's. Both libraries read their
own; nothing is opened that could run code.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import tempfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from vle_lightning.errors import UserError
from vle_lightning.extras import require
from vle_lightning.hub.integrity import check_integrity, check_slice

WHOLE = "whole.ckpt"  # in the folder, once it was asked for
METADATA, META = ".metadata", "meta.pt"  # of torch's form: the index, and what is neither weights nor moments
TAG, ZERO = "checkpoint", "zero"  # in DeepSpeed's form: the inner folder, and what our strategy adds
MOMENTS = ("exp_avg", "exp_avg_sq")
PLAIN = {  # what an index of torch's form is made of, beside dtypes
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "_MEM_FORMAT_ENCODING",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
        )
    ),
}
BROKEN = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    CheckpointException,
)


def is_sharded(path: Path) -> bool:
    """Is this a folder of one of the two kinds?"""
    return (path / METADATA).is_file() or (path / TAG).is_dir()


def read_sharded(path: Path, option: str) -> dict[str, Any]:
    """Put a folder's parts together.

    Args:
        path: of a checkpoint.
        option: what to call the source in messages.

    Returns:
        The checkpoint as of one file: ``state_dict`` by name, AdamW's state by number, and all else.

    Raises:
        UserError: a part is missing, damaged, or holds more than plain data.
    """
    try:
        return _read_distributed(path, option) if (path / METADATA).is_file() else _read_deepspeed(path, option)
    except UserError:
        raise  # it is a ValueError, and says all there is to say
    except pickle.UnpicklingError as error:
        raise UserError(f"{option}: {path} is refused, nothing of it was run: {_first_line(error)}") from error
    except BROKEN as error:
        raise UserError(
            f"{option}: {path} cannot be read as a checkpoint of several ranks; is a part missing? {_first_line(error)}"
        ) from error


def check_parts(path: Path) -> None:
    """Make sure that all parts of a folder are there and are what was written.

    Raises:
        UserError: names what is wrong.
    """
    try:
        if (path / METADATA).is_file():
            index = FileSystemReader(path).read_metadata()
            for place in index.storage_data.values():
                size = (path / place.relative_path).stat().st_size
                if size < place.offset + place.length:
                    raise UserError(f"{path / place.relative_path} is cut short: {size} bytes")
            torch.load(path / META, map_location="cpu", weights_only=True)
            return
        for file in sorted((path / TAG).glob("*.pt")):
            _open(file)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} cannot be read back: {_first_line(error)}") from error
    except BROKEN as error:
        raise UserError(f"{path} cannot be read back: {_first_line(error)}") from error


def _read_distributed(path: Path, option: str) -> dict[str, Any]:
    index = _Index(io.BytesIO((path / METADATA).read_bytes())).load()
    check_integrity(path / META, option)
    _check_tensors(path, index.storage_data.values(), option)
    content: dict[str, Any] = {}
    planner = _PlainPlanner()  # type: ignore[no-untyped-call]
    _load_state_dict(content, storage_reader=FileSystemReader(path), planner=planner, no_dist=True)
    optimizer = content.pop("optimizer_0", None)
    rest = torch.load(path / META, map_location="cpu", weights_only=True)
    states = [] if optimizer is None else [_by_number(optimizer)]
    return {**rest, "state_dict": content["state_dict"], "optimizer_states": states}


def _check_tensors(path: Path, places: Iterable[Any], option: str) -> None:
    """Compare each entry of a folder of torch's form with its checksums; a whole file of them would hide the damage."""
    by_file: dict[str, list[tuple[int, int]]] = {}
    for place in places:
        by_file.setdefault(place.relative_path, []).append((place.offset, place.length))
    for name, slices in by_file.items():
        with (path / name).open("rb") as file:
            for offset, length in sorted(slices):
                check_slice(file, offset, length, path / name, option)


def _by_number(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Rename AdamW's entries from names to the numbers that one process gives them."""
    names = [name for group in optimizer["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "state": {numbers[name]: state for name, state in optimizer["state"].items()},
        "param_groups": [
            {**group, "params": [numbers[name] for name in group["params"]]} for group in optimizer["param_groups"]
        ],
    }


def _read_deepspeed(path: Path, option: str) -> dict[str, Any]:
    require("deepspeed", "deepspeed", f"{option}: {path}, which DeepSpeed wrote,")
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    parts = sorted((path / TAG).glob("*.pt"))
    for file in parts:
        check_integrity(file, option)
        _open(file)  # DeepSpeed opens whatever it is given; here it is refused first
    named = [file for file in parts if file.name.endswith("model_states.pt")]
    if not named:
        raise ValueError(f"{path / TAG} has no *model_states.pt")
    client = _open(named[0])
    if ZERO not in client:
        raise ValueError(
            "it was written by another code than this, and does not say which parameters its moments are of"
        )
    with _quiet():
        weights = get_fp32_state_dict_from_zero_checkpoint(str(path), TAG)
        moments = _read_moments(path / TAG, client[ZERO]["names"])
    for number, state in moments.items():
        shape = weights[client[ZERO]["names"][number]].shape
        moments[number] = {key: moment.reshape(shape) for key, moment in state.items()}  # ZeRO-3's are flat
        moments[number]["step"] = torch.tensor(client[ZERO]["step"])
    kept = {key: client[key] for key in client[ZERO]["keys"]}
    states = {"state": moments, "param_groups": client[ZERO]["groups"]}
    return {**kept, "state_dict": dict(weights), "optimizer_states": [states]}


def _read_moments(folder: Path, names: list[str]) -> dict[int, dict[str, Tensor]]:
    """Merge the moments through DeepSpeed's universal form (arXiv 2406.18820)."""
    from deepspeed.checkpoint.ds_to_universal import main as convert

    with tempfile.TemporaryDirectory() as universal:
        convert(
            Namespace(
                input_folder=str(folder),
                output_folder=universal,
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=False,
                inject_missing_state=True,
            )
        )
        state = {}
        for number, name in enumerate(names):
            parameter = Path(universal) / ZERO / name
            if (parameter / f"{MOMENTS[0]}.pt").is_file():
                state[number] = {key: _param(parameter / f"{key}.pt") for key in MOMENTS}
    return state


def _param(file: Path) -> Tensor:
    content = torch.load(file, map_location="cpu", weights_only=True)
    value: Tensor = content["param"] if isinstance(content, dict) else content
    return value


def _open(file: Path) -> dict[str, Any]:
    """Read a part of DeepSpeed's: tensors, plain data and the few classes that DeepSpeed itself puts there.

    Raises:
        pickle.UnpicklingError: it holds something else.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address, OrderedDict]):
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep DeepSpeed's progress to itself."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


class _PlainPlanner(_EmptyStateDictLoadPlanner):
    """Reads all entries; those that are no tensors must be plain data."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put one entry in its place."""
        value.seek(0)
        torch.load(value, weights_only=True)  # raises for anything else
        value.seek(0)
        super().load_bytes(read_item, value)


class _Index(pickle.Unpickler):
    """Reads an index of torch's form, and no other class than those it is made of."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) in PLAIN or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its index names {module}.{name}")


def _first_line(error: BaseException) -> str:
    """Say what is wrong; torch's advice to load a file all the same is not handed on."""
    if called := re.search(r"(?:Unsupported global: GLOBAL|Unsupported global:|GLOBAL) `?([\w.]+)", str(error)):
        return f"opening it could run code ({called[1]})"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
