"""Studies as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ablation.studies import CLAIMS, METER, MLM, make_full_study, make_study, write_study
from vle_lightning.ablation.report import Report
from vle_lightning.ablation.rows import choose_rows, choose_seeds, merge, read_study
from vle_lightning.errors import UserError


def test_a_row_changes_the_baseline_in_one_place(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert list(study.rows) == ["baseline", "merged", "mlm"]
    baseline, merged, mlm = study.rows.values()
    assert merged.options["pretrain"]["model"]["architecture"] == {
        "preset": "tiny",
        "fusion": {"kind": "merged_attention"},  # as a whole: no layers are left of the baseline's
    }
    assert merged.options["finetune"]["model"]["architecture"] == merged.options["pretrain"]["model"]["architecture"]
    assert mlm.options["pretrain"]["model"]["objectives"] == {"mlm": 1.0}
    assert mlm.options["finetune"] == baseline.options["finetune"]
    assert baseline.options["pretrain"]["data"]["batch_size"] == 8
    assert baseline.options["pretrain"]["data"]["image_size"] == 48  # of the experiment


def test_only_the_baseline_runs_under_several_seeds(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert [study.seeds_of(row) for row in study.rows.values()] == [(0, 1), (0,), (0,)]


def test_groups_merge_and_values_are_replaced() -> None:
    base = {"model": {"optim": {"lr": 1.0, "warmup": 0.1}, "objectives": {"mlm": 1.0}}, "data": {"root": "a"}}
    changes = {"model": {"optim": {"lr": 2.0}, "objectives": {"itm": 1.0}}}
    assert merge(base, changes) == {
        "model": {"optim": {"lr": 2.0, "warmup": 0.1}, "objectives": {"itm": 1.0}},
        "data": {"root": "a"},
    }


def test_an_architecture_that_is_a_name_is_replaced() -> None:
    assert merge({"model": {"architecture": "toy"}}, {"model": {"architecture": {"preset": "toy"}}}) == {
        "model": {"architecture": {"preset": "toy"}}
    }


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("      x: {models: {}}", "row x: unknown keys models; known are"),
        ("      x: {both: 3}", "row x: both holds options"),
        ("      Not-A-Name: {}", "row Not-A-Name: a row's name is of small letters"),
        ("      merged: {}", "several rows are named merged"),
        ("      x: {encoders_from: nobody}", "row x: encoders_from: there is no row 'nobody'"),
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_study(tmp_path, more)


def test_an_axis_is_compared_with_a_row_of_its_own_or_the_baseline(tmp_path: Path) -> None:
    assert make_study(tmp_path, f"{MLM}\n    reference: mlm").axes[1].reference == "mlm"
    assert make_study(tmp_path).axes[1].reference == "baseline"
    with pytest.raises(UserError, match="reference is 'merged'; name a row of this axis"):
        make_study(tmp_path, f"{MLM}\n    reference: merged")


@pytest.mark.parametrize("seeds", ["3", "[]", "[0, 0]", "[-1]", "[a]"])
def test_seeds_are_different_numbers(tmp_path: Path, seeds: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        make_study(tmp_path, seeds=seeds)


def test_a_study_lacks_no_stage(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("seeds: [0]\naxes: {}\n")
    with pytest.raises(UserError, match="pretrain, finetune is missing"):
        read_study(file)
    with pytest.raises(UserError, match="there is no such file"):
        read_study(tmp_path / "none.yaml")


def test_rows_are_chosen_by_name(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert [row.name for row in choose_rows(study, ["mlm", "merged"])] == ["merged", "mlm"]
    assert len(choose_rows(study, None)) == 3
    with pytest.raises(UserError, match="has no row swine; it has baseline, merged, mlm"):
        choose_rows(study, ["swine"])


def test_the_study_that_ships_holds_all_axes_of_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(METER.parents[2])
    study = read_study(METER)
    assert [axis.title.split()[0] for axis in study.axes] == [
        "Image",
        "Text",
        "Fusion",
        "Encoder-only",
        "Objectives",
        "Learning",
    ]
    assert len(study.seeds) == 3
    assert len(study.rows) == 17
    assert MLM.split(":")[0].strip() in study.rows


def test_all_rows_may_run_under_all_seeds_or_some_of_them(tmp_path: Path) -> None:
    study = make_full_study(tmp_path, MLM)
    assert [study.seeds_of(row) for row in study.rows.values()] == [(0, 1)] * 3
    assert choose_seeds(study, None) == (0, 1)
    assert choose_seeds(study, [1]) == (1,)
    with pytest.raises(UserError, match="--seeds: .* has no seed 7; it has 0, 1"):
        choose_seeds(study, [1, 7])


def test_pretraining_is_shared_by_rows_that_change_fine_tuning_alone(tmp_path: Path) -> None:
    more = """      tuned: {finetune: {model: {label_smoothing: 0.1}}}
      scratch: {finetune: {model: {init: null}}}
      again: {}
      rate: {encoders_from: baseline, finetune: {model: {label_smoothing: 0.1}}}"""
    study = make_study(tmp_path, more)
    sources = {name: study.pretraining_of(row) for name, row in study.rows.items()}
    assert {name: source and source.name for name, source in sources.items()} == {
        "baseline": "baseline",
        "merged": "merged",
        "tuned": "baseline",
        "scratch": None,
        "again": "again",  # a repetition
        "rate": "rate",
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("row_seeds: some", "row_seeds is 'some'; choose one of first, all"),
        ("costs: [euros]", "costs: there is no euros; choose from parameters"),
        ("costs: []", "costs is a list of names"),
        ("scores: {pretrain: [itm_accuracy]}", "scores: finetune is missing"),
        ("scores: {finetune: [q2a, q2a]}", "scores.finetune holds .*; give each once"),
        ("curves: 3", "curves is a path, not 3"),
    ],
)
def test_wrong_reports_are_refused(tmp_path: Path, line: str, told: str) -> None:
    file = write_study(tmp_path)
    file.write_text(f"{line}\n{file.read_text()}")
    with pytest.raises(UserError, match=told):
        read_study(file)


def test_the_study_of_each_part_differs_from_its_baseline_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CLAIMS.parents[2])
    study = read_study(CLAIMS)
    assert (study.seeds, study.row_seeds) == ((0, 1, 2), "all")
    assert study.report.deciding == "q2a"
    assert {study.report.page, study.report.run_root}.isdisjoint({Report.page, Report.run_root})
    shared = [name for name, row in study.rows.items() if study.pretraining_of(row) is study.baseline]
    assert shared == ["baseline", "no_object_types", "blind"]
    assert [name for name, row in study.rows.items() if not row.is_pretrained] == ["scratch"]
    objectives = {name: set(row.options["pretrain"]["model"]["objectives"]) for name, row in study.rows.items()}
    assert objectives["baseline"] - objectives["mlm_itm"] == {"mpc", "pbc"}
    assert objectives["mlm_itm_mpc"] - objectives["mlm_itm"] == {"mpc"}
    assert objectives["mlm_itm_pbc"] - objectives["mlm_itm"] == {"pbc"}
    depths = [study.rows[f"depth_{number}"].options for number in (1, 2)]
    assert [
        {stage["model"]["architecture"]["fusion"]["layers"] for stage in options.values()} for options in depths
    ] == [{1}, {2}]


def test_keys_that_are_given_twice_are_refused(tmp_path: Path) -> None:
    file = write_study(tmp_path, f"{MLM}\n{MLM}")
    with pytest.raises((UserError, ValueError), match="twice"):
        read_study(file)
