"""A study as data: two stages, a baseline, and axes of rows that each change the baseline in one place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vle_lightning.ablation.keys import as_mapping, check_keys
from vle_lightning.ablation.report import FINETUNE, PRETRAIN, REPORT, STAGES, Report, read_report
from vle_lightning.errors import UserError
from vle_lightning.yaml_limits import read_yaml

Options = dict[str, Any]
BOTH, AT_SCALE, ENCODERS = "both", "at_scale", "encoders_from"
BASELINE = "baseline"
FIRST, ALL = ROW_SEEDS = ("first", "all")  # the seeds of rows other than the baseline
STUDY = {*STAGES, *REPORT, "seeds", "row_seeds", BASELINE, "axes", "limits"}
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

    @property
    def is_pretrained(self) -> bool:
        """Does fine-tuning start from the pre-training? Not where it changes ``model.init`` to null."""
        model = self.options[FINETUNE].get("model", {})
        return "init" not in model or model["init"] is not None


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
    seeds: tuple[int, ...]  # of the baseline
    baseline: Row
    axes: tuple[Axis, ...]
    limits: tuple[str, ...]  # what the numbers do not say
    row_seeds: str = FIRST  # whether other rows run under the first seed or under all
    report: Report = field(default_factory=Report)

    @property
    def rows(self) -> dict[str, Row]:
        """Return all rows by name."""
        return {row.name: row for row in (self.baseline, *(row for axis in self.axes for row in axis.rows))}

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """Return the seeds that a row runs under."""
        return self.seeds if row is self.baseline or self.row_seeds == ALL else self.seeds[:1]

    def pretraining_of(self, row: Row) -> Row | None:
        """Return the row whose pre-training a row is fine-tuned from: its own, the baseline's, or None.

        A row that changes fine-tuning alone takes the baseline's, under the same seed; one that changes nothing is a
        repetition and is trained as a whole.
        """
        if not row.is_pretrained:
            return None
        own, base = row.options, self.baseline.options
        shares = row.encoders_from is None and own[PRETRAIN] == base[PRETRAIN] and own[FINETUNE] != base[FINETUNE]
        return self.baseline if shares else row


def read_study(file: Path) -> Study:
    """Read a study.

    Raises:
        UserError: the file or an experiment is missing, a key is unknown, or a value cannot be.
    """
    content = _read(file)
    where = str(file)
    check_keys(content, STUDY, where, needed=(*STAGES, "seeds", "axes"))
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{where}: seeds lists the baseline's seeds, such as [0, 1, 2], not {seeds!r}")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"{where}: seeds holds {seeds}; give each once, and none below 0")
    row_seeds = content.get("row_seeds", FIRST)
    if row_seeds not in ROW_SEEDS:
        raise UserError(f"{where}: row_seeds is {row_seeds!r}; choose one of {', '.join(ROW_SEEDS)}")
    stages = {stage: _read_stage(as_mapping(content[stage], f"{where}: {stage}"), where, stage) for stage in STAGES}
    given = as_mapping(content.get(BASELINE, {}), f"{where}: {BASELINE}")
    baseline = _read_row(BASELINE, given, stages, {}, where)
    axes = tuple(_read_axes(as_mapping(content["axes"], f"{where}: axes"), baseline, where))
    names = [row.name for axis in axes for row in axis.rows]
    if twice := sorted({name for name in names if names.count(name) > 1 or name == BASELINE}):
        raise UserError(f"{where}: several rows are named {', '.join(twice)}; give each a name of its own")
    limits = content.get("limits", [])
    if not isinstance(limits, list) or not all(isinstance(limit, str) for limit in limits):
        raise UserError(f"{where}: limits is a list of sentences")
    study = Study(file, tuple(seeds), baseline, axes, tuple(limits), row_seeds, read_report(content, where))
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


def choose_seeds(study: Study, seeds: Sequence[int] | None) -> tuple[int, ...]:
    """Return the seeds of these, in the study's order; all by default.

    Raises:
        UserError: the study has no such seed.
    """
    if unknown := [str(seed) for seed in seeds or () if seed not in study.seeds]:
        known = ", ".join(map(str, study.seeds))
        raise UserError(f"--seeds: {study.file} has no seed {', '.join(unknown)}; it has {known}")
    return tuple(seed for seed in study.seeds if not seeds or seed in seeds)


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
        axis = as_mapping(value, place)
        check_keys(axis, AXIS, place, needed=("title", BASELINE, "rows"))
        rows = as_mapping(axis["rows"], f"{place}.rows")
        read = (
            _read_row(str(key), as_mapping(row, f"{place}.rows.{key}"), baseline.options, baseline.at_scale, where)
            for key, row in rows.items()
        )
        reference = str(axis.get("reference", BASELINE))
        if reference not in (BASELINE, *rows):
            raise UserError(f"{place}.reference is {reference!r}; name a row of this axis")
        yield Axis(str(axis["title"]), str(axis[BASELINE]), tuple(read), reference)


def _read_stage(content: Mapping[str, Any], where: str, stage: str) -> Options:
    check_keys(content, STAGE, f"{where}: {stage}", needed=("experiment",))
    experiment = _read(Path(str(content["experiment"])))
    return merge(experiment, as_mapping(content.get("options", {}), f"{where}: {stage}.options"))


def _read_row(
    name: str, content: Mapping[str, Any], bases: Mapping[str, Options], at_scale: Options, where: str
) -> Row:
    place = f"{where}: row {name}"
    if not NAME.fullmatch(name):
        raise UserError(f"{place}: a row's name is of small letters, digits and underscores")
    check_keys(content, ROW, place)
    changes = {key: as_mapping(content.get(key, {}), f"{place}: {key}") for key in sorted(CHANGES)}
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


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; those that ship are under experiments/")
    return as_mapping(read_yaml(file), str(file))
