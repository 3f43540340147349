"""The tables and the plot of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.ablation.studies import finish_all, make_full_study, make_study
from vle_lightning.ablation.outcomes import Band, band_of, read_outcomes
from vle_lightning.ablation.page import NOISE, judge, render
from vle_lightning.ablation.plot import draw
from vle_lightning.ablation.running import jobs_of


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.5, NOISE), (0.55, NOISE), (0.6, NOISE), (0.45, "-10.0"), (0.65, "+10.0"), (0.6004, "+5.0")],
)
def test_a_score_between_the_seeds_is_noise(value: float, told: str) -> None:
    assert judge((value,), Band(0.55, 0.5, 0.6)) == told


def test_without_a_baseline_nothing_is_judged() -> None:
    assert judge((0.5,), None) == ""


def test_an_axis_may_be_compared_with_a_row_of_its_own(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    finish_all(study, tmp_path, {"baseline": [0.5, 0.6], "merged": [0.75], "mlm": [0.8]})
    outcomes = read_outcomes(study, jobs_of(study, list(study.rows.values()), tmp_path))
    axis = study.axes[1]
    assert band_of(axis, outcomes, "vqa_accuracy") == pytest.approx((0.55, 0.5, 0.6))
    own = band_of(replace(axis, reference="mlm"), outcomes, "vqa_accuracy")
    assert own == pytest.approx((0.8, 0.7, 0.9))  # as far to either side as the baseline's range is wide
    del outcomes["mlm"]
    assert band_of(replace(axis, reference="mlm"), outcomes, "vqa_accuracy") is None


def test_the_tables_compare_with_the_baseline(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    finish_all(study, tmp_path, {"baseline": [0.5, 0.6], "merged": [0.52]})
    outcomes = read_outcomes(study, jobs_of(study, list(study.rows.values()), tmp_path))
    assert set(outcomes) == {"baseline", "merged"}  # the fine-tuning of mlm is not finished
    page = render(study, outcomes, ["ablation-mlm-0-finetune"], "ablations.png")
    baseline, merged = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith(("| **baseline**", "| merged"))
    ][:2]
    assert baseline[0:2] == ["**baseline**", "co-attention"]
    assert baseline[-1] == "**55.0** [50.0, 60.0]"
    assert merged[1] == "merged attention"
    assert merged[-3:] == ["75.0 (within noise)", "50.0 (within noise)", "52.0 (within noise)"]
    assert float(merged[2]) < float(baseline[2])  # one layer each, of 12 D^2 and 32 D^2
    assert "| mlm | mlm | not run |" in page
    assert "itm_accuracy (floor 50.0)" in page
    assert "- ablation-mlm-0-finetune" in page
    assert "- It is small." in page
    assert "`abcdef0`" in page
    assert str(tmp_path) not in page.replace(str(study.file), "")


def test_where_all_rows_have_all_seeds_ranges_are_compared(tmp_path: Path) -> None:
    more = """      mlm: {pretrain: {model: {objectives: {mlm: 1.0}}}}
      tuned: {finetune: {model: {label_smoothing: 0.1}}}"""
    study = make_full_study(tmp_path, more)
    scores = {"baseline": [0.5, 0.6], "merged": [0.58, 0.7], "mlm": [0.2, 0.3], "tuned": [0.65, 0.75]}
    finish_all(study, tmp_path, scores)
    jobs = jobs_of(study, list(study.rows.values()), tmp_path)
    next(job for job in jobs if job.name == "ablation-mlm-1-finetune").folder.metrics.unlink()
    page = render(study, read_outcomes(study, jobs), [], "x.png")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    table = {cells[0]: cells[1:] for cells in lines}
    assert table["**baseline**"][-1] == "**55.0** [50.0, 60.0]"
    assert table["merged"][-1] == "64.0 [58.0, 70.0] (within noise)"  # the ranges overlap, though not the means
    assert table["tuned"][-1] == "**70.0** [65.0, 75.0] (+15.0)"
    assert table["mlm"][0] == "mlm (1 of 2 seeds)"
    assert table["mlm"][-1] == "**20.0** (-35.0)"
    assert table["merged"][2] == "3.0"  # minutes: two stages of 90 seconds
    assert table["tuned"][2:5] == ["1.5", "", ""]  # fine-tuning alone: the pre-training is the baseline's
    assert "where the two ranges overlap" in page


def test_runs_of_other_settings_are_left_out(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    finish_all(study, tmp_path, {"baseline": [0.5, 0.6], "merged": [0.52]})
    changed = make_study(tmp_path, "      mlm: {pretrain: {model: {objectives: {itm: 1.0}}}}")
    jobs = jobs_of(changed, list(changed.rows.values()), tmp_path)
    assert [job.is_finished for job in jobs if job.row.name == "mlm"] == [False, False]
    assert set(read_outcomes(changed, jobs)) == {"baseline", "merged"}


def test_the_plot_is_drawn_of_whatever_is_there(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    for number, vqa in enumerate(({}, {"merged": [0.3]}, {"baseline": [0.5, 0.6], "merged": [0.7], "mlm": [0.55]})):
        finish_all(study, tmp_path, vqa)
        outcomes = read_outcomes(study, jobs_of(study, list(study.rows.values()), tmp_path))
        draw(study, outcomes, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as picture:
            assert min(picture.size) > 100
