"""The layout of the reference fixtures: folders with weights, settings and cases (docs/parity.md)."""

from __future__ import annotations

import json
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.meter import is_meter_config
from vle_lightning.hub.vle import is_vle
from vle_lightning.hub.vlmo import is_vlmo_config

WEIGHTS = "model.safetensors"
SETTINGS = "preprocessor_config.json"
TENSORS = "_tensors"  # what the tensors of a VCR case are called by, behind its name
DATA_ONLY = "vcr_annotations"  # what the VCR cases read; no case itself


class Folder(NamedTuple):
    """One fixture folder."""

    path: Path
    config: dict[str, Any]  # empty for preprocessing

    @property
    def name(self) -> str:
        """The folder's name, for the report."""
        return self.path.name

    @property
    def family(self) -> str | None:
        """The model family; the preprocessing of VLE counts as VLE. None where it is not known."""
        if is_meter_config(self.config):
            return "meter"
        if is_vlmo_config(self.config):
            return "vlmo"
        return "vle" if is_vle(self.config) or (self.path / SETTINGS).is_file() else None

    def case_names(self) -> list[str]:
        """List the cases."""
        return sorted(file.stem for file in (self.path / "cases").glob("*.json") if file.stem != DATA_ONLY)

    def strays(self) -> list[str]:
        """List tensor files that belong to no case."""
        names = {file.stem for file in (self.path / "cases").glob("*.json")}
        stems = {file.stem for file in (self.path / "cases").glob("*.safetensors")}
        return sorted(stem for stem in stems if not {stem, stem.removesuffix(TENSORS)} & names)

    def sibling(self, head: str) -> Folder:
        """Find the model that these settings belong to, beside this folder.

        Args:
            head: published name of a head that it holds; ``vle`` for any model.

        Returns:
            The model for pictures of this size; of several, the one whose name is most alike, then the shortest name.

        Raises:
            UserError: there is none.
        """
        found = [folder for folder in read_folders(self.path.parent) if head in folder.heads()]
        crop = read_json(self.path / SETTINGS).get("crop_size", {})
        sizes = {crop.get("height"), crop.get("width")} if isinstance(crop, dict) else {crop}
        fitting = [folder for folder in found if {folder.config["vision_config"]["image_size"]} == sizes]
        if not fitting:
            raise UserError(
                f"{self.path}: no folder beside it holds a model with '{head}' for images of {crop}; put it there"
            )
        return max(fitting, key=lambda folder: (len(commonprefix([folder.name, self.name])), -len(folder.name)))

    def heads(self) -> set[str]:
        """Return the first parts of the names of the weights; an empty set without weights."""
        file = self.path / WEIGHTS
        if not file.is_file() or not is_vle(self.config):
            return set()
        with safe_open(file, "pt") as weights:
            return {key.split(".")[0] for key in weights.keys()}  # noqa: SIM118 (no dictionary)


class Case(NamedTuple):
    """One call of the authors' code: what went in and what came out."""

    folder: Folder
    name: str
    content: dict[str, Any]  # the JSON file
    tensors: dict[str, Tensor]  # input.*, output.*, mid.*

    @property
    def kind(self) -> str:
        """What was called: a class, a method or a function; a VCR task; else the case's name."""
        called = self.content.get("class") or self.content.get("function")
        if called:
            return str(called).split("(")[0].split("/")[0].strip()
        return "VCR" if "task" in self.content else self.name

    def group(self, kind: str) -> dict[str, Tensor]:
        """Return the tensors called ``kind.NAME``, by NAME."""
        return {key.split(".", 1)[1]: value for key, value in self.tensors.items() if key.startswith(f"{kind}.")}

    @property
    def has_loss(self) -> bool:
        """Whether a loss was recorded."""
        return "loss" in self.content or "output.loss" in self.tensors

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that are no tensors."""
        return dict(self.content.get("inputs_json", {}))


def read_folders(root: Path) -> list[Folder]:
    """List the fixture folders, by name.

    Raises:
        UserError: there is no such folder, or it holds none, or a config.json is not JSON.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; name one in the layout of docs/parity.md")
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        raise UserError(f"{root} holds no fixture folders; name one in the layout of docs/parity.md")
    return [Folder(path, read_json(path / "config.json")) for path in folders]


def read_case(folder: Folder, name: str) -> Case:
    """Read a case.

    Raises:
        UserError: its file is not JSON.
        SafetensorError: its tensors cannot be read.
    """
    file = folder.path / "cases" / f"{name}.json"
    return Case(folder, name, read_json(file), read_tensors(file))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a case: NAME.safetensors, for VCR NAME_tensors.safetensors; empty where there are none."""
    candidates = (file.with_suffix(".safetensors"), file.with_name(f"{file.stem}{TENSORS}.safetensors"))
    path = next((path for path in candidates if path.is_file()), None)
    return load_file(path) if path else {}
