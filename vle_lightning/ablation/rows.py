"""A study as data: two stages, a baseline, and axes of rows that each change the baseline in one place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vle_lightning.errors import UserError
from vle_lightning.yaml_limits import read_yaml

Options = dict[str, Any]
STAGES = ("pretrain", "finetune")
BOTH, AT_SCALE, ENCODERS = "both", "at_scale", "encoders_from"
BASELINE = "baseline"
STUDY = {*STAGES, "seeds", BASELINE, "axes", "limits"}
STAGE = {"experiment", "options"}
AXIS = {"title", BASELINE, "rows", "reference"}
CHANGES = {BOTH, *STAGES, AT_SCALE}
ROW = {"about", "about_at_scale", ENCODERS, *CHANGES}
MERGED = (  # groups whose options are changed one by one; of all else a change replaces the whole value
    ("trainer",),
    ("model",),
    ("model", "optim"),
    ("model", "architecture"),  # by part: a fusion that is given replaces the whole fusion
    ("data",),
)
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclass(frozen=True)
class Row:
    """One composition that is trained and scored."""

    name: str
    about: str
    options: Mapping[str, Options]  # by stage: the whole experiment
    at_scale: Options  # changes of the pre-training at real size
    about_at_scale: str
    encoders_from: str | None = None  # the row whose pre-trained encoders it starts from; all else starts at random


@dataclass(frozen=True)
class Axis:
    """What one table varies."""

    title: str
    baseline: str  # what the baseline is on this axis
    rows: tuple[Row, ...]
    reference: str  # the row that the others are compared with: the baseline, or one of the axis's own


@dataclass(frozen=True)
class Study:
    """All rows, the baseline's first."""

    file: Path
    seeds: tuple[int, ...]  # of the baseline; other rows run under the first
    baseline: Row
    axes: tuple[Axis, ...]
    limits: tuple[str, ...]  # what the numbers do not say

    @property
    def rows(self) -> dict[str, Row]:
        """Return all rows by name."""
        return {row.name: row for row in (self.baseline, *(row for axis in self.axes for row in axis.rows))}

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """Return the seeds that a row runs under."""
        return self.seeds if row is self.baseline else self.seeds[:1]


def read_study(file: Path) -> Study:
    """Read a study.

    Raises:
        UserError: the file or an experiment is missing, a key is unknown, or a value cannot be.
    """
    content = _read(file)
    where = str(file)
    _check_keys(content, STUDY, where, needed=(*STAGES, "seeds", "axes"))
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{where}: seeds lists the baseline's seeds, such as [0, 1, 2], not {seeds!r}")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"{where}: seeds holds {seeds}; give each once, and none below 0")
    stages = {stage: _read_stage(_mapping(content[stage], f"{where}: {stage}"), where, stage) for stage in STAGES}
    given = _mapping(content.get(BASELINE, {}), f"{where}: {BASELINE}")
    baseline = _read_row(BASELINE, given, stages, {}, where)
    axes = tuple(_read_axes(_mapping(content["axes"], f"{where}: axes"), baseline, where))
    names = [row.name for axis in axes for row in axis.rows]
    if twice := sorted({name for name in names if names.count(name) > 1 or name == BASELINE}):
        raise UserError(f"{where}: several rows are named {', '.join(twice)}; give each a name of its own")
    limits = content.get("limits", [])
    if not isinstance(limits, list) or not all(isinstance(limit, str) for limit in limits):
        raise UserError(f"{where}: limits is a list of sentences")
    study = Study(file, tuple(seeds), baseline, axes, tuple(limits))
    for row in study.rows.values():
        if row.encoders_from is None:
            continue
        source = study.rows.get(row.encoders_from)
        if source is None:
            raise UserError(f"{where}: row {row.name}: {ENCODERS}: there is no row {row.encoders_from!r}")
        if source.encoders_from is not None:
            raise UserError(f"{where}: row {row.name}: {ENCODERS}: {source.name} starts from others' encoders itself")
    return study


def choose_rows(study: Study, names: Sequence[str] | None) -> list[Row]:
    """Return the rows of these names, in the study's order; all by default.

    Raises:
        UserError: there is no such row.
    """
    rows = study.rows
    if unknown := [name for name in names or () if name not in rows]:
        raise UserError(f"--rows: {study.file} has no row {', '.join(unknown)}; it has {', '.join(rows)}")
    return [row for row in rows.values() if not names or row.name in names]


def merge(base: Mapping[str, Any], changes: Mapping[str, Any], path: tuple[str, ...] = ()) -> Options:
    """Return ``base`` with some options changed: one by one in the groups (`MERGED`), as a whole elsewhere."""
    merged = dict(base)
    for key, value in changes.items():
        inner, place = merged.get(key), (*path, key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(inner, value, place) if both and place in MERGED else value  # type: ignore[arg-type]
    return merged


def _read_axes(content: Mapping[str, Any], baseline: Row, where: str) -> Iterator[Axis]:
    for name, value in content.items():
        place = f"{where}: axes.{name}"
        axis = _mapping(value, place)
        _check_keys(axis, AXIS, place, needed=("title", BASELINE, "rows"))
        rows = _mapping(axis["rows"], f"{place}.rows")
        read = (
            _read_row(str(key), _mapping(row, f"{place}.rows.{key}"), baseline.options, baseline.at_scale, where)
            for key, row in rows.items()
        )
        reference = str(axis.get("reference", BASELINE))
        if reference not in (BASELINE, *rows):
            raise UserError(f"{place}.reference is {reference!r}; name a row of this axis")
        yield Axis(str(axis["title"]), str(axis[BASELINE]), tuple(read), reference)


def _read_stage(content: Mapping[str, Any], where: str, stage: str) -> Options:
    _check_keys(content, STAGE, f"{where}: {stage}", needed=("experiment",))
    experiment = _read(Path(str(content["experiment"])))
    return merge(experiment, _mapping(content.get("options", {}), f"{where}: {stage}.options"))


def _read_row(
    name: str, content: Mapping[str, Any], bases: Mapping[str, Options], at_scale: Options, where: str
) -> Row:
    place = f"{where}: row {name}"
    if not NAME.fullmatch(name):
        raise UserError(f"{place}: a row's name is of small letters, digits and underscores")
    _check_keys(content, ROW, place)
    changes = {key: _mapping(content.get(key, {}), f"{place}: {key}") for key in sorted(CHANGES)}
    options = {stage: merge(merge(bases[stage], changes[BOTH]), changes[stage]) for stage in STAGES}
    source, about = content.get(ENCODERS), str(content.get("about", name))
    return Row(
        name,
        about,
        options,
        merge(at_scale, changes[AT_SCALE]),
        str(content.get("about_at_scale", about)),
        None if source is None else str(source),
    )


def _check_keys(content: Mapping[str, Any], known: set[str], where: str, needed: Sequence[str] = ()) -> None:
    if unknown := sorted(str(key) for key in content if key not in known):
        raise UserError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if missing := [key for key in needed if key not in content]:
        raise UserError(f"{where}: {', '.join(missing)} is missing")


def _mapping(content: object, where: str) -> Mapping[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UserError(f"{where} holds options (key: value), not {content!r}")
    return content


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; those that ship are under experiments/")
    return _mapping(read_yaml(file), str(file))
