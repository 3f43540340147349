"""Starting from a checkpoint of our own: every tensor lands, is resized, or the load fails by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.errors import UserError

POSITIONS = "position_embedding.weight"


class LoadReport(NamedTuple):
    """What happened to a checkpoint's tensors."""

    source: str
    tensors: int
    parameters: int  # numbers loaded
    resized: tuple[str, ...]  # position tables, with their sizes
    dropped: tuple[str, ...]  # heads of the task that the checkpoint was trained on

    def __str__(self) -> str:
        """Return one sentence for the log."""
        text = f"loaded {self.parameters:,} parameters in {self.tensors} tensors from {self.source}"
        if self.resized:
            text += f"; resized {', '.join(self.resized)}"
        if self.dropped:
            text += f"; left out {len(self.dropped)} tensors of other heads ({', '.join(self.dropped)})"
        return text


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a Lightning checkpoint (.ckpt) without running anything it may contain.

    Args:
        path: the file, or a run folder that holds best.ckpt.

    Raises:
        UserError: there is no such file, or it is no checkpoint, or it holds more than plain data.
    """
    file = path / "best.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"model.init: there is no checkpoint at {file}; train one (make pretrain) or name another")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"model.init: {file} cannot be read as a checkpoint of tensors: {error}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"model.init: {file} is no Lightning checkpoint: it has no 'state_dict'")
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    return weights


def load_encoder(model: nn.Module, path: Path) -> LoadReport:
    """Fill an encoder from the checkpoint of any task; the heads of that task are left out and named.

    Args:
        model: the encoder; the checkpoint holds its weights under ``model.``.
        path: a .ckpt file or a run folder.

    Raises:
        UserError: a tensor is missing, unknown, of another shape or not of floats; each is listed.
    """
    weights = read_checkpoint(path)
    encoder = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    heads = sorted({key.split(".")[0] for key in weights if not key.startswith("model.")})
    return fill(model, encoder, str(path), "model.init", tuple(heads))


def fill(
    model: nn.Module, weights: dict[str, Tensor], source: str, option: str, dropped: tuple[str, ...] = ()
) -> LoadReport:
    """Load weights into a module, all of them and nothing else; a position table is resized to the module's grid.

    Args:
        model: what is filled.
        weights: by the module's own names.
        source: where they come from, for report and message.
        option: of the experiment file, for the message.
        dropped: what was left out on purpose.

    Raises:
        UserError: a tensor is missing, unknown, of another shape or not of floats; each is listed.
    """
    resized = _resize_positions(model, weights)
    _refuse_misfits(model, weights, source, option)
    model.load_state_dict(weights)
    return LoadReport(source, len(weights), sum(v.numel() for v in weights.values()), resized, dropped)


def _resize_positions(model: nn.Module, weights: dict[str, Tensor]) -> tuple[str, ...]:
    resized = []
    for key, own in model.state_dict().items():
        table = weights.get(key)
        if (
            key.endswith(POSITIONS)
            and table is not None
            and own.shape != table.shape
            and own.shape[1] == table.shape[1]
        ):
            side = round((own.shape[0] - 1) ** 0.5)
            weights[key] = resize_position_table(table, (side, side))
            resized.append(f"{key} {tuple(table.shape)} -> {tuple(own.shape)}")
    return tuple(resized)


def _refuse_misfits(model: nn.Module, weights: dict[str, Tensor], source: str, option: str) -> None:
    own = model.state_dict()
    faults = [f"{key} is missing" for key in own if key not in weights]
    faults += [f"{key} is unknown here" for key in weights if key not in own]
    for key in own.keys() & weights.keys():
        if weights[key].shape != own[key].shape:
            faults.append(f"{key} is {tuple(weights[key].shape)}, the model has {tuple(own[key].shape)}")
        elif weights[key].is_floating_point() != own[key].is_floating_point():
            faults.append(f"{key} holds {weights[key].dtype}, the model {own[key].dtype}")
    if faults:
        shown = "\n  ".join(sorted(faults)[:20])
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise UserError(
            f"{option}: {source} does not fit model.architecture (another width, depth or vocabulary?). "
            f"{len(faults)} tensors differ:\n  {shown}{more}"
        )
