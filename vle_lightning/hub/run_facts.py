"""What is known of where a checkpoint comes from: its run's scores and record, and the models it started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vle_lightning.files import is_number, read_object
from vle_lightning.hub.folder import as_hub_name
from vle_lightning.yaml_limits import read_yaml

BEST = "best.ckpt"  # that a run folder stands for, and that its metrics.json is of
TOWERS = ("text_init", "image_init")  # options of a model that started from two towers


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from."""

    name: str | None = None  # of the run
    metrics: Mapping[str, float] = field(default_factory=dict)  # of this very checkpoint
    record: Mapping[str, Any] = field(default_factory=dict)  # the run's run.json
    bases: tuple[str, ...] = ()  # hub names that it started from, directly or over runs of ours


def find_origin(source: str | Path) -> Origin:
    """Read the run folder of a checkpoint, as far as there is one.

    Args:
        source: a run folder, a checkpoint in one, a hub name, or a folder of another kind.

    Raises:
        UserError: a record is damaged.
    """
    path = Path(source)
    named = None if path.exists() else as_hub_name(source)
    if named is not None:
        return Origin(bases=(named[0],))
    folder = path if path.is_dir() and (path / "config.yaml").is_file() else path.parent
    if not (folder / "config.yaml").is_file():
        return Origin()
    scored = path == folder or path.resolve() == (folder / BEST).resolve()
    metrics = read_object(folder / "metrics.json") if scored else {}
    numbers = {name: value for name, value in metrics.items() if is_number(value)}
    bases = tuple(dict.fromkeys(_bases(folder, set())))
    return Origin(folder.resolve().name, numbers, read_object(folder / "run.json"), bases)


def _bases(folder: Path, seen: set[Path]) -> Iterator[str]:
    """Yield the hub names that a run started from; a run of ours in between is followed."""
    home = folder.resolve()
    if home in seen or not (home / "config.yaml").is_file():
        return
    content: Any = read_yaml(home / "config.yaml")
    model = content.get("model") if isinstance(content, dict) else None
    options = model if isinstance(model, dict) else {}
    init = options.get("init")
    for given in (init,) if init else (options.get(tower) for tower in TOWERS):
        if not isinstance(given, str):
            continue
        places = [base / given for base in (Path(), *home.parents) if (base / given).exists()]
        for place in places[:1]:
            yield from _bases(place if place.is_dir() else place.parent, seen | {home})
        named = None if places or given.split("/")[0] == home.parent.name else as_hub_name(given)
        if named is not None:
            yield named[0]
