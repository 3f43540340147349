"""An index: the vectors of many pictures or texts, with their names, as one file that a model searches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.search import Best, search

FORMAT, VERSION = "vle-lightning index", "1"
Kind = Literal["images", "texts"]
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


class File(NamedTuple):
    """What tells whether a picture has changed."""

    size: int  # bytes
    time: int  # of the last change, nanoseconds


class Changes(NamedTuple):
    """What the last making of an index did."""

    encoded: int = 0  # new or changed
    kept: int = 0
    dropped: int = 0  # no longer there


@dataclass(frozen=True)
class Index:
    """N vectors of one model.

    Attributes:
        kind: of what.
        model: digest of the weights that made the vectors (`DualEncoder.digest`).
        names: of pictures, below ``root``; or the texts.
        vectors: (N, C) float32, of length one.
        files: (N, 2) int64, a `File` a picture; zeros of texts.
        root: the folder of the pictures; empty where they were listed one by one.
        broken: the pictures that cannot be read, and why.
        changes: what was done to make it; not saved.
    """

    kind: Kind
    model: str
    names: tuple[str, ...]
    vectors: Tensor
    files: Tensor
    root: str = ""
    broken: Mapping[str, str] = field(default_factory=dict)
    changes: Changes = Changes()

    def __len__(self) -> int:
        """Count the vectors."""
        return len(self.names)

    def place(self, row: int) -> str:
        """Return where a picture lies, or the text."""
        return str(Path(self.root) / self.names[row]) if self.kind == "images" else self.names[row]

    def search(self, vectors: Tensor, top_k: int) -> Best:
        """Find the best rows for each of the vectors (Q, C); see `metrics.search`."""
        return search(vectors.to(self.vectors.device, torch.float32), self.vectors, top_k)

    def to(self, device: torch.device | str) -> Self:
        """Move the vectors to where they are to be searched."""
        return replace(self, vectors=self.vectors.to(device))

    def check(self, model: str, told: str = "the index") -> None:
        """Refuse an index of another model.

        Raises:
            UserError: its vectors cannot be compared with those of ``model``.
        """
        if self.model != model:
            raise UserError(
                f"{told} was made by a model with the weights {self.model[:12]}, not by this one ({model[:12]}): use "
                "that model, or make the index again under another name"
            )

    def save(self, file: str | Path) -> None:
        """Write the index, all or nothing.

        Raises:
            UserError: it cannot be written.
        """
        file = Path(file)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}.unfinished")
        about = {"format": FORMAT, "version": VERSION, "kind": self.kind, "model": self.model, "root": self.root}
        tensors = {"vectors": self.vectors.cpu().contiguous(), "files": self.files, **_packed("names", self.names)}
        tensors |= _packed("broken", [json.dumps([name, told]) for name, told in self.broken.items()])
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished, about)
            unfinished.replace(file)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise UserError(f"the index {file} cannot be written: {error}") from error

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is no whole index.
        """
        try:
            with safe_open(file, "pt") as content:
                about = content.metadata() or {}
                if about.get("format") != FORMAT or about.get("version") != VERSION:
                    raise UserError(f"{file} is not an index of this version; make one with --images or --texts")
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
            names, vectors = _unpacked("names", tensors), tensors["vectors"]
            broken = dict(json.loads(pair) for pair in _unpacked("broken", tensors))
            found = cls(_kind(about["kind"]), about["model"], names, vectors, tensors["files"], about["root"], broken)
        except FileNotFoundError as error:
            raise UserError(f"there is no index {file}; make one with --images or --texts") from error
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the index {file} is damaged ({error}): make it again") from error
        if found.vectors.shape[:1] != (len(names),) or found.files.shape != (len(names), 2):
            raise UserError(f"the index {file} is damaged: it has {len(names)} names, but not as many vectors")
        return found


def list_pictures(images: str | Path | Iterable[str | Path]) -> tuple[str, tuple[str, ...]]:
    """Return a folder and the names of its pictures below it, sorted; or nothing and the given paths, each once.

    Raises:
        UserError: there is no such folder, a part of it cannot be read, or it holds no picture.
    """
    if not isinstance(images, str | os.PathLike):
        listed = tuple(dict.fromkeys(str(path) for path in images))
        if not listed:
            raise UserError("the list of pictures is empty; name some, or a folder of pictures")
        return "", listed
    folder = os.fspath(images)
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; name a folder of pictures")
    found: list[str] = []
    for parent, _, files in os.walk(folder, onerror=_refuse):
        below = os.path.relpath(parent, folder)
        found += [os.path.normpath(os.path.join(below, name)) for name in files if name.lower().endswith(ENDINGS)]
    if not found:
        raise UserError(f"the folder {folder} holds no picture ({', '.join(ENDINGS)}); name one that does")
    return folder, tuple(sorted(found))


def _refuse(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}") from error


def _kind(name: str) -> Kind:
    if name == "images":
        return "images"
    if name == "texts":
        return "texts"
    raise ValueError(f"it holds {name!r}")


def _packed(name: str, texts: Sequence[str]) -> dict[str, Tensor]:
    """Store texts as bytes and where each ends: a header of safetensors could not hold a million."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]  # names of files may hold any bytes
    content = np.frombuffer(b"".join(parts), np.uint8).copy()
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return {name: torch.from_numpy(content), f"{name}_ends": torch.from_numpy(ends)}


def _unpacked(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    content, ends = tensors[name].numpy().tobytes(), tensors[f"{name}_ends"].tolist()
    return tuple(
        content[start:end].decode("utf-8", "surrogatepass") for start, end in zip([0, *ends], ends, strict=False)
    )
