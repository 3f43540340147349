"""The checkpoints of a run folder: written aside, verified, renamed; the last ones and the best are kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vle_lightning.errors import UserError
from vle_lightning.files import is_number, write_json
from vle_lightning.hub.integrity import check_integrity
from vle_lightning.hub.sharded import check_parts

STEP_NAME = re.compile(r"step_(?P<step>\d+)\.ckpt")
CARRIER = "Checkpoints"  # the callback whose state in a checkpoint is the record
UNFINISHED, REPLACED, ABANDONED = ".unfinished", ".replaced", ".abandoned"
MOST_STEPS = 2**63  # more fit into no checkpoint
BROKEN = (OSError, RuntimeError, ValueError, zipfile.BadZipFile)  # what reading a damaged file raises


class Best(NamedTuple):
    """The best checkpoint, and by what."""

    step: int
    score: float
    rule: str  # such as ``min val/loss``


class CheckpointStore:
    """``step_<number>.ckpt`` in a run folder, and the links ``last.ckpt`` and ``best.ckpt`` to two of them.

    A checkpoint gets its name only once it is whole, verified and on the disk. Older ones go after that, so that
    whatever ends the process, at whatever moment, the newest name is that of a good one.
    """

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        """Look after one folder.

        Args:
            folder: the run folder.
            keep_last: so many of the newest are kept, and the best.
        """
        self.folder, self.keep_last = folder, keep_last
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self._record = folder / "checkpoints.json"

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return self.folder / f"step_{step:06}.ckpt"

    def unfinished(self, step: int) -> Path:
        """Return where to write it first."""
        return self.path(step).with_name(self.path(step).name + UNFINISHED)

    def make_room(self, step: int) -> None:
        """Remove what an earlier attempt at this step has left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove(self.unfinished(step))

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, oldest first."""
        names = (STEP_NAME.fullmatch(path.name) for path in self.folder.glob("step_*.ckpt"))
        return sorted(int(match["step"]) for match in names if match)

    def newest(self) -> Path | None:
        """Return the newest checkpoint, which a kill may have left without the name ``last.ckpt``."""
        steps = self.steps()
        if steps:
            return self.path(steps[-1])
        return self.last if self.last.exists() else None  # of an earlier version of this code

    def commit(self, step: int) -> Path:
        """Give a verified checkpoint its name, link ``last.ckpt`` to it, and remove what is too old."""
        path, unfinished = self.path(step), self.unfinished(step)
        flush(unfinished)
        if path.is_dir():  # of the same step before: a folder cannot be replaced in one move
            path.replace(path.with_name(path.name + REPLACED))
        unfinished.replace(path)
        remove(path.with_name(path.name + REPLACED))
        self._link(self.last, path)
        flush(self.folder, deep=False)
        self._prune()
        return path

    def judge(self, step: int, best: Best | None) -> None:
        """Note that a step was validated, and which one is the best by now; link ``best.ckpt`` to that.

        The note comes first: a kill before the link costs nothing, `clean` makes it.
        """
        write_json(self._record, describe(step, best))
        if best is not None:
            self._link(self.best, self.path(best.step))
        self._prune()

    def validated(self) -> int | None:
        """Return the step that was validated last."""
        return self._read()[0]

    def best_so_far(self) -> Best | None:
        """Return the best checkpoint that is there; None where there is none."""
        best = self._read()[1]
        return best if best and self.path(best.step).exists() else None

    def step_of(self, path: Path) -> int | None:
        """Return the step of a checkpoint, or of what a link names; None for files of other names."""
        match = STEP_NAME.fullmatch(path.resolve().name)
        return int(match["step"]) if match else None

    def _read(self) -> tuple[int | None, Best | None]:
        """Return the step validated last and the best one; what a power cut has damaged is rebuilt."""
        if not self._record.is_file():
            return None, None
        try:
            return parse(json.loads(self._record.read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            return self._rebuild(f"is damaged ({' '.join(str(error).split())})")

    def _rebuild(self, fault: str) -> tuple[int | None, Best | None]:
        """Take the record that the newest readable checkpoint carries, write it anew, and say so."""
        found = self._carried()
        warnings.warn(
            f"{self._record} {fault}: it was rebuilt from the checkpoints; validated last: {found[0]}, "
            f"best: {found[1]}",
            stacklevel=3,
        )
        write_json(self._record, describe(*found))
        return found

    def _carried(self) -> tuple[int | None, Best | None]:
        """Return the record of the newest readable checkpoint that carries one."""
        for step in reversed(self.steps()):
            try:
                check_integrity(self.path(step), "checkpoint")
                content = torch.load(self.path(step), map_location="cpu", weights_only=True, mmap=True)
                return parse(content["callbacks"][CARRIER])
            except (UserError, *BROKEN, KeyError, TypeError):
                # of an earlier version of this code, a folder, or damaged as well
                continue
        return None, None

    def clean(self) -> None:
        """Mend what a kill during a save has left: the newest checkpoint has its name and its link."""
        for path in self.folder.glob(f"*{UNFINISHED}"):
            remove(path)
        for replaced in self.folder.glob(f"*{REPLACED}"):
            path = replaced.with_name(replaced.name.removesuffix(REPLACED))
            remove(replaced) if path.exists() else replaced.replace(path)
        steps = self.steps()
        if steps and not self._record.exists() and self._carried() != (None, None):
            self._rebuild("is missing")
        if steps:
            self._link(self.last, self.path(steps[-1]))
        if best := self.best_so_far():
            self._link(self.best, self.path(best.step))

    def rewind(self, step: int) -> list[Path]:
        """Put aside the checkpoints of later steps than the one that a run goes on from; return where they are now.

        The newest one would else be taken for this run's, at its next start.
        """
        moved = []
        for later in (number for number in self.steps() if number > step):
            path = self.path(later)
            if self.best.is_symlink() and self.best.resolve() == path.resolve():
                self.best.unlink()
            aside = path.with_name(path.name + ABANDONED)
            remove(aside)
            moved.append(path.replace(aside))
        if moved and self.steps():
            self._link(self.last, self.path(self.steps()[-1]))
        return moved

    def _prune(self) -> None:
        steps = self.steps()
        best = {self.best.resolve().name} if self.best.exists() else set()
        if noted := self.best_so_far():
            best.add(self.path(noted.step).name)
        for step in steps[: -self.keep_last]:
            path = self.path(step)
            if path.name not in best:
                remove(path)

    def _link(self, link: Path, target: Path) -> None:
        """Point a link elsewhere in one move: there is no moment without it."""
        aside = link.with_name(link.name + UNFINISHED)
        aside.unlink(missing_ok=True)
        aside.symlink_to(target.name)
        if link.is_dir() and not link.is_symlink():
            remove(link)
        aside.replace(link)


def describe(validated: int | None, best: Best | None) -> dict[str, object]:
    """Return the record of what was validated last and of the best."""
    return {"validated": validated, "best": best and best._asdict()}


def parse(record: object) -> tuple[int | None, Best | None]:
    """Read a record; see `describe`.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(record, dict):
        raise ValueError(f"no JSON object but {type(record).__name__}")
    validated, best = record.get("validated"), record.get("best")
    if not (validated is None or is_step(validated)):
        raise ValueError(f"validated is {validated!r:.80}")
    if best is None:
        return validated, None
    fields: dict[str, Callable[[object], bool]] = {
        "step": is_step,
        "score": is_number,
        "rule": lambda value: isinstance(value, str),
    }
    if not isinstance(best, dict) or best.keys() != fields.keys():
        raise ValueError(f"best is {best!r:.80}")
    if wrong := [name for name, fits in fields.items() if not fits(best[name])]:
        raise ValueError(f"best.{wrong[0]} is {best[wrong[0]]!r:.80}")
    return validated, Best(**best)


def is_step(value: object) -> bool:
    """Can it be the number of a step?"""
    return type(value) is int and 0 <= value < MOST_STEPS


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write one plain file.

    Raises:
        OSError: the disk is full or gone.
    """
    try:
        torch.save(checkpoint, path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def verify(path: Path, step: int) -> None:
    """Read a checkpoint back: every byte against its checksum, and the step that it is of.

    Args:
        path: a file, or a folder of which each rank has written a part: of torch's form the sizes are checked.
        step: that was saved.

    Raises:
        UserError: it is not what was written.
    """
    if path.is_dir():
        check_parts(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except BROKEN as error:
        raise UserError(f"{path} cannot be read back: {error}") from error
    if damaged is not None:
        raise UserError(f"{path} was not written as it is in memory: {damaged} is damaged")
    if not isinstance(content, dict) or content.get("global_step") != step or "state_dict" not in content:
        raise UserError(f"{path} is not the checkpoint of step {step}")


def flush(path: Path, deep: bool = True) -> None:
    """Wait until a file, or a folder and with ``deep`` all its files, is on the disk."""
    if deep and path.is_dir():
        for inner in path.rglob("*"):
            flush(inner, deep=False)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
