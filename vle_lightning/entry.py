"""The frame of every ``python -m`` entry point: clean start, and the last resort for an error nobody expected.

The standard library alone is imported here: what is caught may be an import that fails.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EX_USER, EX_SOFTWARE = 2, 70  # the user has to fix something; sysexits.h: an error in the program itself
NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
LAUNCHER = (*NUMBERS, "MASTER_ADDR")  # what says which rank a process is; Lightning reads it at import
PACKAGES = ("torch", "lightning", "transformers", "torchmetrics", "jsonargparse", "omegaconf", "deepspeed", "numpy")


def enter(program: str, main: Callable[[], int | None]) -> int:
    """Run an entry point; nothing that goes wrong ends in a bare traceback.

    Args:
        program: as one types it, such as ``python -m vle_lightning``.
        main: imports what it needs and runs the command; its exit code, None for 0.

    Returns:
        The exit code: that of ``main``, 2 where the environment is wrong, 70 after an error that nobody expected.
    """
    fault = settle_launcher(os.environ)
    if fault is not None:
        print(f"error: {fault}", file=sys.stderr)
        return EX_USER
    try:
        return main() or 0
    except Exception as error:  # the last resort: the traceback goes into the file that is named
        return report(program, error)


def settle_launcher(environment: MutableMapping[str, str]) -> str | None:
    """Take empty variables of a launcher for variables that are not set.

    Returns:
        What is wrong with those that are set; None where nothing is.
    """
    for name in LAUNCHER:
        if not environment.get(name, "unset").strip():
            del environment[name]
    for name in NUMBERS:
        value = environment.get(name, "0")
        if not (value.strip().isascii() and value.strip().isdigit()):
            return f"environment: {name} is {value!r}; it must be a whole number, or not be set"
    return None


def report(program: str, error: BaseException) -> int:
    """Write the traceback into a file, say in one sentence which, and return the exit code."""
    told = "".join(
        (
            f"command: {program} {shlex.join(sys.argv[1:])}\n",
            f"time: {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n",
            f"python: {platform.python_version()} on {platform.platform()}\n",
            *(f"{name}: {_version(name)}\n" for name in PACKAGES),
            "\n",
            *traceback.format_exception(error),
        )
    )
    lines = str(error).split()
    short = f"{type(error).__name__}: {' '.join(lines)}"[:300] if lines else type(error).__name__
    file = _write(told)
    if file is None:
        print(told, file=sys.stderr)
        where = "the traceback above; no file could be written for it"
    else:
        where = f"the file {file}, which holds the traceback"
    print(f"error: {program}: unexpected {short}; please report it with {where}", file=sys.stderr)
    return EX_SOFTWARE


def _write(told: str) -> Path | None:
    name = f"vle-error-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.txt"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        try:
            file = folder() / name
            file.write_text(told, encoding="utf-8", errors="backslashreplace")
        except OSError:  # a full disk, a folder without leave to write or that is gone: the next one
            continue
        return file
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
