"""Packages for a GPU machine without network: packed here as wheels, installed there beside what it has.

``python -m vle_lightning.gpu_check.wheels`` fills a folder with those that a machine with torch, torchvision, lightning
and transformers may lack. It imports nothing but the standard library, for the other end has nothing else.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from vle_lightning.entry import enter

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
WHEELS = "GPU_CHECK_WHEELS"  # environment: the folder of wheels, if not wheels/
TARGET = "GPU_CHECK_PACKAGES"  # environment: where they were installed
IMPORTS = {  # what the code imports, and the package that has it
    "braceexpand": "braceexpand",
    "deepspeed": "deepspeed",
    "docstring_parser": "docstring_parser",
    "ftfy": "ftfy",
    "hjson": "hjson",
    "jsonargparse": "jsonargparse",
    "msgpack": "msgpack",
    "omegaconf": "omegaconf",
    "open_clip": "open_clip_torch",
    "pydantic": "pydantic",
    "tensorboard": "tensorboard",
    "torchmetrics": "torchmetrics",
    "typeshed_client": "typeshed_client",
    "webdataset": "webdataset",
}
DEEPSPEED = ("deepspeed", "hjson", "msgpack", "pydantic")  # what it needs is missed with it alone
CARRIED = (  # into the folder: what these need comes along, except what such a machine has
    *("braceexpand", "webdataset", "ftfy", "wcwidth", "open_clip_torch", "omegaconf", "jsonargparse"),
    *("docstring_parser", "typeshed_client", "hjson", "msgpack", "pydantic", "pydantic_core", "annotated_types"),
    *("typing_inspection", "einops", "py-cpuinfo"),
)
BUILT = ("deepspeed",)  # the registry has its source only
PLATFORMS = tuple(f"manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014", "1"))


def missing() -> list[str]:
    """Return the packages that cannot be imported here; of DeepSpeed and what it needs only its own name."""
    lacking = [package for name, package in IMPORTS.items() if find_spec(name) is None]
    others = [package for package in lacking if package not in DEEPSPEED]
    return others + (["deepspeed"] if len(others) < len(lacking) else [])


def install_missing(wheels: Path) -> Path | None:
    """Install the wheels of a folder into one within it, without touching this Python.

    Returns:
        The folder to put before others in PYTHONPATH; None where there are no wheels.

    Raises:
        subprocess.CalledProcessError: pip could not.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        return None
    target = (wheels / "installed").absolute()
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(target)]
    pip(["install", *options, *map(str, files)])
    return target


def pack(folder: Path, python: str) -> None:
    """Fill a folder with wheels of the versions that are tested (constraints.txt).

    Args:
        folder: to fill.
        python: version of the other machine's Python, such as 3.12; its processor is x86-64.

    Raises:
        subprocess.CalledProcessError: pip could not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pins = read_pins(CONSTRAINTS)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    options += [text for platform in PLATFORMS for text in ("--platform", platform)]
    pip(["download", *options, "--dest", str(folder), *(f"{name}=={pins[name]}" for name in map(canonical, CARRIED))])
    for name in BUILT:
        pip(["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), f"{name}=={pins[name]}"])


def read_pins(file: Path) -> dict[str, str]:
    """Return the version of each package in a constraints file, by canonical name."""
    lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def canonical(name: str) -> str:
    """Write a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(arguments: Sequence[str]) -> None:
    """Run pip of this Python."""
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"], check=True)


def main() -> None:
    """Fill the folder that the command line names."""
    parser = argparse.ArgumentParser("python -m vle_lightning.gpu_check.wheels", description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("wheels"), help="folder (default: %(default)s)")
    parser.add_argument("--python", default="3.12", help="of the other machine (default: %(default)s)")
    options = parser.parse_args()
    pack(options.to, options.python)
    print(f"{options.to}: {len(list(options.to.glob('*.whl')))} wheels")


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning.gpu_check.wheels", main))
