"""The folder of a run: its files, and the checkpoint that a command starts from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vle_lightning.checkpointing.store import STEP_NAME, CheckpointStore
from vle_lightning.errors import UserError

AUTO = "auto"
LINKS = ("best.ckpt", "last.ckpt")  # to a step's checkpoint; Lightning's own last.ckpt is a plain file
RECORDS = {"run.json": ("steps", "samples_seen"), "progress.json": ("step", "samples_per_second")}  # and keys of ours
OPTIONS = ("run_name:", "seed_everything:")  # that each config.yaml of ours holds
WRITTEN = (
    "config.yaml",
    "metrics.json",
    "predictions.json",
    "checkpoints.json",
    *RECORDS,
    *LINKS,
)  # others' names, too
LONGEST_NAME = 200  # bytes; file systems take 255, and a number or an ending may follow


class RunFolder:
    """``checkpoints/<run name>/`` and what lies in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best, self.last = path / "best.ckpt", path / "last.ckpt"
        self.metrics, self.record = path / "metrics.json", path / "run.json"
        self.config = path / "config.yaml"

    def holds(self, path: Path) -> bool:
        """Is ``path`` this folder or in it?"""
        return path.resolve().is_relative_to(self.path.resolve())

    def refuse_folders(self) -> None:
        """Make sure that the records can be written where a run writes them.

        Raises:
            UserError: a folder has the name of one.
        """
        for name in WRITTEN:
            if name not in LINKS and (self.path / name).is_dir():
                raise UserError(f"run_name: {self.path / name} is a folder where this run writes a file; move it away")

    def refuse_strangers(self) -> None:
        """Make sure that a run overwrites nobody's files, whether it starts afresh or goes on.

        Raises:
            UserError: the folder holds files of names that a run writes, and no record of a run.
        """
        if self.holds_a_run():
            return
        files = [self.path / name for name in WRITTEN]
        theirs = [file.name for file in files if file.is_symlink() or file.exists() and file.stat().st_size > 0]
        if theirs:
            raise UserError(
                f"run_name: {self.path} holds {theirs[0]}, which this run would overwrite, and no record of an "
                "earlier run; choose another run_name, or move that file"
            )

    def set_aside(self) -> None:
        """Rename the folder of an earlier run to the first free ``<name>.<number>``: none is overwritten.

        Raises:
            UserError: the folder holds somebody's files, and no record of a run.
        """
        self.refuse_strangers()
        if not self.holds_a_run():
            return
        number = 1
        while (older := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(older)
        print(f"{self.path} held an earlier run, which is now {older}")

    def holds_a_run(self) -> bool:
        """Is there a record of a run of ours? Contents tell: last.ckpt or config.yaml may be others', too."""
        if any(_is_link_of_ours(self.path / name) for name in LINKS):
            return True
        if any(_has_keys(self.path / name, keys) for name, keys in RECORDS.items()):
            return True
        if not self.config.is_file():
            return False
        lines = self.config.read_text(encoding="utf-8", errors="replace").splitlines()
        return all(any(line.startswith(option) for line in lines) for option in OPTIONS)

    def choose_checkpoint(self, command: str, given: str | None) -> str | None:
        """Return the checkpoint file that a command starts from.

        Args:
            command: fit starts afresh unless told; validate, test and predict take the run's best checkpoint.
            given: ``--ckpt_path``: a file, ``last`` or ``best`` of this folder, None, or for a fit ``auto``: the last
                one if there is one.

        Raises:
            UserError: there is no such file.
        """
        newest = CheckpointStore(self.path).newest()
        if command == "fit" and (given is None or (given == AUTO and newest is None)):
            return None
        last = newest if command == "fit" and newest is not None else self.last
        named = {None: self.best, "best": self.best, "last": last, AUTO: last}
        file = named.get(given, Path(given or ""))
        if (file / self.last.name).exists():  # a run folder
            file = file / (self.last if command == "fit" else self.best).name
        if not file.exists():
            raise UserError(
                f"--ckpt_path: there is no checkpoint {file} to {command}; run `python -m vle_lightning fit` "
                "with this experiment first, or name another file"
            )
        return str(file)


def _is_link_of_ours(file: Path) -> bool:
    """Does a link name the checkpoint of a step? That one may be gone."""
    return file.is_symlink() and STEP_NAME.fullmatch(file.readlink().name) is not None


def _has_keys(file: Path, keys: Sequence[str]) -> bool:
    """Is a file a JSON object with these keys?"""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # missing, damaged, or somebody's
        return False
    return isinstance(content, dict) and content.keys() >= set(keys)


def check_run_name(name: str) -> str:
    """Return the name of a run if it can be that of a folder directly in ``run_root``.

    Raises:
        UserError: it is empty, too long, holds a separator or a control character, or means another folder.
    """
    wish = "give one plain name of a folder, such as pretrain-toy; run_root says where it lies"
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise UserError(f"run_name is {name!r}; {wish}")
    if not name.isprintable():
        raise UserError(f"run_name is {name!r}, which holds a character that cannot be printed; {wish}")
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
        raise UserError(f"run_name {name[:40]!r}... is longer than {LONGEST_NAME} bytes; {wish}")
    return name
