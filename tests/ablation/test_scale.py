"""A study at real size."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.sampler import accumulation
from tests.ablation.studies import METER, make_study
from vle_lightning.ablation.report import PRETRAIN
from vle_lightning.ablation.rows import choose_rows, read_study
from vle_lightning.ablation.scale import at_scale, enlarged, print_scale
from vle_lightning.experiment import read_settings
from vle_lightning.hub.architecture import read_architecture


def test_a_row_takes_the_sizes_of_the_preset_that_it_does_not_fix(tmp_path: Path) -> None:
    row = make_study(tmp_path).rows["merged"]
    larger = enlarged(row, "vle-base")
    config = read_architecture(larger["model"]["architecture"])
    fusion = config.fusion  # type: ignore[attr-defined]
    assert (fusion.kind, fusion.width, fusion.layers) == ("merged_attention", 768, 6)
    assert larger["data"]["image_size"] == 224
    assert row.options[PRETRAIN]["data"]["image_size"] == 48


def test_rows_at_other_sizes_give_what_they_fix_anew(tmp_path: Path) -> None:
    more = """      x:
        both: {model: {architecture: {fusion: {layers: 1}}}}
        at_scale: {model: {architecture: {fusion: {layers: 3}}}, data: {image_size: 96}}"""
    larger = enlarged(make_study(tmp_path, more).rows["x"], "toy")
    assert larger["model"]["architecture"] == {"preset": "toy", "fusion": {"layers": 3}}
    assert larger["data"]["image_size"] == 96


@pytest.mark.slow
def test_all_rows_are_counted_and_what_cannot_be_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "      x: {at_scale: {data: {image_size: 50}}}"
    study = make_study(tmp_path, more)
    counted = at_scale(study, choose_rows(study, None), "toy", read_settings, accumulation)
    baseline, merged, x = counted
    assert merged.parameters < baseline.parameters
    assert merged.flops > 0
    assert (baseline.tokens, baseline.image_size) == (32, 48)
    assert x.fault is not None
    assert print_scale(study, counted, "toy") == 1
    told = capsys.readouterr().out
    assert "row x, at_scale: data.image_size 50 is not a multiple" in told
    assert print_scale(study, counted[:2], "toy") == 0


@pytest.mark.slow
def test_equal_parameters_are_equal_at_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(METER.parents[2])
    study = read_study(METER)
    rows = choose_rows(study, ["baseline", "merged_8", "merged_11", "decoder"])
    baseline, smaller, merged, decoder = (
        count.parameters for count in at_scale(study, rows, "vle-base", read_settings, accumulation)
    )
    assert abs(merged / baseline - 1) < 0.002
    assert abs(decoder / baseline - 1) < 0.002
    assert smaller < 0.95 * baseline
