"""Imports run one way: the command line at the top, batches and streams at the bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (  # a module imports from lower floors and from its own part
    ("errors", "vqa_answers", "processor", "resident", "projection", "arrivals"),
    ("batch", "streams", "parts", "entry", "extras", "distributed", "files"),
    ("encoders", "fusion", "yaml_limits", "fakes", "records"),
    ("models",),
    ("objectives", "hub", "metrics", "optim"),
    ("tasks",),
    ("flops", "performance", "strategies", "checkpointing"),
    ("inference", "callbacks"),
    ("run_folder", "run_lock", "resuming", "parsing"),
    ("run", "curves"),
    ("study", "export", "parity", "results", "leaderboard", "slurm", "plan", "demo"),
    ("ablation", "gpu_check"),
    ("commands", "domains"),
    ("options",),
    ("experiment",),
    ("cli", "bench"),
    ("__main__",),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
WITHOUT_LIGHTNING = (
    "arrivals",
    "batch",
    "fakes",
    "files",
    "vqa_answers",
    "streams",
    "parts",
    "projection",
    "records",
    "errors",
    "entry",
    "extras",
    "yaml_limits",
    "encoders",
    "fusion",
    "models",
    "objectives",
    "hub",
    "optim",
)
# backbones, encoders and fusions, beside what all of them share; parts themselves may build on each other
KINDS = ("models.dual_stream", "encoders.", "fusion.")
SHARED = ("encoders.base.", "encoders.positions.", "fusion.base.")
NAME_KINDS = ("encoders", "fusion", "hub", "parity", "presets.py", "dual_stream.py")
READ_DATA = ("inference", "demo", "experiment", "cli", "bench")  # the only parts that import data modules


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Return the dotted name of everything that a file imports, inside of functions as well."""
    return tuple(find_imports(file))


def find_imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(package: str) -> list[Path]:
    """Return the source files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def part_of(file: Path) -> str:
    """Return the folder or module directly under its package that a file belongs to."""
    return file.relative_to(ROOT).parts[1].removesuffix(".py")


def faults_of_floors(file: Path) -> Iterator[str]:
    part = part_of(file)
    for name in imports_of(file) if part != "__init__" else ():
        package, _, rest = name.partition(".")
        below = rest.split(".")[0]
        data = package == "datamodules" and part not in READ_DATA
        upwards = package == "vle_lightning" and below != part and FLOOR_OF[below] >= FLOOR_OF[part]
        lightning = package in ("lightning", "pytorch_lightning") and part in WITHOUT_LIGHTNING
        if data or upwards or lightning:
            yield f"{file} imports {name}"


# one test for all files: a test for each takes longer than what it does
def test_modules_import_from_lower_floors_only() -> None:
    files = modules("vle_lightning")
    assert files
    assert [fault for file in files for fault in faults_of_floors(file)] == []


def test_parts_are_named_by_presets_and_published_checkpoints_alone() -> None:
    files = [f for f in modules("vle_lightning") if part_of(f) not in NAME_KINDS and f.name not in NAME_KINDS]
    assert files
    for file in files:
        names = [name.removeprefix("vle_lightning.") for name in imports_of(file) if name.startswith("vle_lightning.")]
        concrete = [name for name in names if name.startswith(KINDS) and not name.startswith(SHARED)]
        assert not concrete, f"{file} names {concrete}; ask models/backbone.py, or a configuration, instead"


def test_data_modules_import_batch_types_and_two_small_modules_of_the_ground_floor() -> None:
    allowed = ("vle_lightning.batch.", "vle_lightning.entry.", "vle_lightning.vqa_answers.")
    files = modules("datamodules")
    assert files
    for file in files:
        names = [name for name in imports_of(file) if name.split(".")[0] == "vle_lightning"]
        assert all(name.startswith(allowed) for name in names), f"{file} imports {names}"
