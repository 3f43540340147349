"""Packages for a machine without network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vle_lightning.gpu_check import wheels
from vle_lightning.gpu_check.wheels import BUILT, CARRIED, CONSTRAINTS, canonical, install_missing, missing, read_pins


def make_wheel(folder: Path) -> None:
    """Write the smallest wheel there is, of a package ``carried``."""
    about = "carried-1.0.dist-info"
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carried.py", "VALUE = 7\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")


def test_wheels_are_installed_apart_and_found_from_there(tmp_path: Path) -> None:
    assert install_missing(tmp_path) is None
    make_wheel(tmp_path)
    target = install_missing(tmp_path)
    assert target is not None
    code = "import carried; print(carried.VALUE)"
    told = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert told.stdout == "7\n"
    assert subprocess.run([sys.executable, "-c", code], env={}, capture_output=True).returncode == 1


def test_what_is_carried_has_a_tested_version() -> None:
    pins = read_pins(CONSTRAINTS)
    assert {canonical(name) for name in (*CARRIED, *BUILT)} <= pins.keys()
    assert pins["open-clip-torch"] == "3.3.0"


def test_what_deepspeed_needs_is_missed_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    absent = {"hjson", "open_clip"}
    monkeypatch.setattr(wheels, "find_spec", lambda name: None if name in absent else object())
    assert missing() == ["open_clip_torch", "deepspeed"]
