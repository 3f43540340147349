"""What each rank tells of itself in a file, and who of them hangs, judged by these files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

NAMED = 8  # samples that a report names


class Phase(StrEnum):
    """What a rank is at."""

    STARTING = "starting"
    LOADING = "loading"
    COMPUTING = "computing"
    WAITING = "waiting for others"
    VALIDATING = "validating"
    TESTING = "testing"
    PREDICTING = "predicting"
    SAVING = "saving"
    ENDED = "ended"
    FAILED = "ended by an error"


class Place(NamedTuple):
    """How far a rank has come."""

    phase: Phase = Phase.STARTING
    step: int | None = None  # of the latest micro-batch; None before the first
    micro_batch: int | None = None
    sample_ids: tuple[str, ...] = ()  # while they are worked on
    advances: int = 0  # hooks passed: all ranks pass the same ones in the same order


@dataclass(frozen=True)
class Sign:
    """The content of a rank's file. Clocks of hosts may differ: only ``silent`` and ``beat`` are compared."""

    session: str  # of this start of the run
    rank: int
    host: str
    pid: int
    phase: str
    step: int | None
    micro_batch: int | None
    sample_ids: tuple[str, ...]
    advances: int
    silent: float  # seconds since its main thread advanced
    beat: int  # how often this was written
    time: float  # seconds since 1970 by the clock of its host, for people

    def __str__(self) -> str:
        place = "before its first step" if self.step is None else f"step {self.step}, micro-batch {self.micro_batch}"
        names, more = ", ".join(self.sample_ids[:NAMED]), len(self.sample_ids) - NAMED
        samples = f"; its samples: {names}{f' and {more} more' if more > 0 else ''}" if names else ""
        return (
            f"rank {self.rank} (host {self.host}, pid {self.pid}): {self.phase}, {place}, {self.silent:.0f} s{samples}"
        )

    def write(self, folder: Path) -> None:
        """Write it, all or nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{self.rank}.unfinished"
        unfinished.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        unfinished.replace(folder / f"{self.rank}.json")


Signs = Mapping[int, Sign | None]  # by rank; None where there is no sign of this session


def read_signs(folder: Path, session: str, world: int) -> dict[int, Sign | None]:
    """Read what each rank of this session told last; files of ranks and sessions of the past do not count."""
    return {rank: _read_sign(folder / f"{rank}.json", session) for rank in range(world)}


def _read_sign(file: Path, session: str) -> Sign | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # a host that lost power may leave an empty file
        return None
    if content.get("session") != session:
        return None
    return Sign(**{**content, "sample_ids": tuple(content["sample_ids"])})


def silent_ranks(earlier: Signs, now: Signs) -> list[int]:
    """Return the ranks that told nothing new in between: dead, stopped, or their hosts are gone; and failed ones."""
    return [rank for rank, sign in now.items() if _gave_no_sign(earlier.get(rank), sign)]


def _gave_no_sign(earlier: Sign | None, now: Sign | None) -> bool:
    if now is None or now.phase == Phase.FAILED:
        return True
    return now.phase != Phase.ENDED and earlier is not None and earlier.beat == now.beat


def hanging_ranks(earlier: Signs, now: Signs, timeout: float) -> list[int]:
    """Name who hangs.

    Those that gave no sign; if there are none, of those that came least far the ones that do not wait for others. All
    that came least far, if they all wait: then it is a device or the network.

    Args:
        earlier: what was read a while ago.
        now: what is read now, after all living ranks wrote anew.
        timeout: seconds; nobody hangs while the last one still advances.
    """
    silent = silent_ranks(earlier, now)
    if silent:
        return silent
    signs = [sign for sign in now.values() if sign is not None and sign.phase != Phase.ENDED]
    if not signs:
        return []
    last = [sign for sign in signs if sign.advances == min(sign.advances for sign in signs)]
    if min(sign.silent for sign in last) < timeout:
        return []
    working = [sign for sign in last if sign.phase != Phase.WAITING]
    return [sign.rank for sign in working or last]


def describe(earlier: Signs, now: Signs, hanging: Sequence[int], timeout: float) -> str:
    """Write the report, one line for each rank; those that hang come first."""
    silent = silent_ranks(earlier, now)
    lines = [f"hang: no progress for hang_timeout={timeout:g} s, because of rank {', '.join(map(str, hanging))}"]
    for rank in hanging:
        sign, told = now[rank], "gave no sign of life: dead, stopped, or its host is gone"
        if sign is None:
            lines.append(f"  hangs: rank {rank}: {told}")
        else:
            lines.append(f"  hangs: {sign}{f'; {told}' if rank in silent and sign.phase != Phase.FAILED else ''}")
    waiting = (sign is not None and sign.phase == Phase.WAITING for sign in (now[rank] for rank in hanging))
    if not silent and all(waiting):
        lines.append("  all of these wait for each other: look at the devices and the network between them")
    lines += [f"  {sign}" for rank, sign in now.items() if sign is not None and rank not in hanging]
    return "\n".join(lines) + "\n"
