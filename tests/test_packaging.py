"""What pip installs: the core runs checkpoints, extras are named where they lack, the lists agree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vle_lightning.errors import UserError
from vle_lightning.extras import require
from vle_lightning.gpu_check.wheels import canonical, read_pins
from vle_lightning.strategies.build import make_strategy

ROOT = Path(__file__).parents[1]
PART = re.compile(r"# extra (\w+)")


def requirements() -> dict[str, list[str]]:
    """Return the lines of requirements.txt by the part that they stand in: core, then each extra; gradio is apart."""
    parts, part = {"core": list[str]()}, "core"
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if named := PART.match(line):
            part = named[1]
            parts[part] = []
        elif line and not line.startswith("#"):
            parts[part].append(line)
    apart = (ROOT / "requirements-demo.txt").read_text(encoding="utf-8").splitlines()
    parts["demo"] = [line for line in apart if ">=" in line] + parts["demo"]
    return parts


def project() -> dict[str, list[str]]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"core": content["dependencies"], **content["optional-dependencies"]}


def test_pyproject_and_requirements_list_the_same_bounds() -> None:
    assert project() == requirements()
    assert set(project()) == {"core", "demo", "deepspeed", "dev"}


def test_each_requirement_is_pinned_at_or_above_its_bound() -> None:
    pins = read_pins(ROOT / "constraints.txt")
    for line in (line for lines in requirements().values() for line in lines):
        name, bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", line).groups()  # type: ignore[union-attr]
        pinned = pins[canonical(name)]
        assert numbers(pinned) >= numbers(bound), f"{line}: constraints.txt pins {pinned}"


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require("numpy", "demo", "this")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UserError, match=r"trainer.strategy deepspeed_2 needs .*'vle-lightning\[deepspeed\]'"):
        make_strategy("deepspeed_2", "cpu", "32-true", False, 60.0)


# in a process of its own: this one has imported most of them
BARE = """
import sys
for name in ("deepspeed", "gradio", "openai", "playwright", "pytest", "hypothesis", "xdist", "mypy", "ruff"):
    sys.modules[name] = None
from vle_lightning.cli import main
from vle_lightning.inference import pipeline
sys.exit(main(["ask", "nowhere.png", "why?"]))
"""


@pytest.mark.slow
def test_without_extras_everything_is_imported() -> None:
    run = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: there is no picture nowhere.png")
