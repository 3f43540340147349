"""Curves of runs: what is read, how small it is kept, and one's own run over a committed file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from vle_lightning.cli import main
from vle_lightning.curves.command import gather, run_curves
from vle_lightning.curves.plot import merge_seeds, panels_of
from vle_lightning.curves.record import Curve, RunCurves, read_curves, read_file, thin, write_file
from vle_lightning.errors import UserError

Points = Sequence[tuple[int, float]]
SCALARS: Mapping[str, Points] = {
    "train/q2a": [(0, 0.25), (10, 0.5), (20, math.nan)],
    "train/q2a_place": [(0, 0.25), (10, 0.375)],
    "val/q2a": [(20, 0.75)],
    "val/loss": [(20, 1.25)],
    "speed/samples_per_second": [(0, 80.0)],
}


def make_run(folder: Path, *starts: Mapping[str, Points]) -> Path:
    """Leave what a VCR run leaves: its settings, its record, and TensorBoard's files of each start."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("task: vcr\n")
    (folder / "run.json").write_text(json.dumps({"task": "vcr", "seed": 3, "commit": "0123456789"}))
    for number, scalars in enumerate(starts):
        writer = SummaryWriter(str(folder), filename_suffix=f".{number}")
        for name, points in scalars.items():
            for step, value in points:
                writer.add_scalar(name, value, step)
        writer.close()
    return folder


def a_run(name: str, points: int, seed: int = 0) -> RunCurves:
    curve = Curve(tuple(range(points)), tuple(number / 7 for number in range(points)))
    return RunCurves(name, name, "vcr", seed, "abcdef0", {"train/q2a": curve})


def points_of(file: Path) -> int:
    (points,) = {len(run.scalars["train/q2a"].steps) for run in read_file(file)}
    return points


def test_loss_and_scores_of_the_task_are_read_and_nothing_else(tmp_path: Path) -> None:
    run = read_curves(make_run(tmp_path / "mine", SCALARS))
    assert (run.run, run.group, run.task, run.seed, run.commit) == ("mine", "mine", "vcr", 3, "0123456")
    assert set(run.scalars) == {"train/q2a", "train/q2a_place", "val/q2a", "val/loss"}
    assert run.scalars["train/q2a"] == Curve((0, 10), (0.25, 0.5))  # what is not a number is left out
    assert set(read_curves(tmp_path / "mine", ["speed/*"]).scalars) == {"speed/samples_per_second"}
    with pytest.raises(UserError, match=r"hold nothing of val/nlvr"):
        read_curves(tmp_path / "mine", ["val/nlvr"])


def test_a_run_that_went_on_counts_its_later_values(tmp_path: Path) -> None:
    first = {"train/loss": [(0, 4.0), (10, 3.0), (20, 9.0)]}
    folder = make_run(tmp_path / "mine", first, {"train/loss": [(20, 2.0), (30, 1.0)]})
    assert read_curves(folder).scalars["train/loss"] == Curve((0, 10, 20, 30), (4.0, 3.0, 2.0, 1.0))


def test_a_thinned_point_is_the_mean_of_neighbours_at_their_last_step() -> None:
    assert thin(Curve((1, 2, 3, 4), (0.0, 1.0, 4.0, 6.0)), 2) == Curve((2, 4), (0.5, 5.0))
    short = Curve((1, 2), (0.0, 1.0))
    assert thin(short, 2) is short


def test_a_file_stays_within_its_limit_with_as_many_points_as_fit(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    runs = [a_run(f"run-{number}", 1000) for number in range(5)]
    assert write_file(runs, file, 4_500) == file.stat().st_size <= 4_500
    assert points_of(file) == 60
    assert write_file(runs, file, file.stat().st_size - 1) == file.stat().st_size
    assert points_of(file) == 40
    with pytest.raises(UserError, match="5 runs are too many for 500 bytes"):
        write_file(runs, file, 500)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    run = read_curves(make_run(tmp_path / "mine", SCALARS))
    write_file([run, a_run("other", 3)], tmp_path / "x.json")
    read, other = read_file(tmp_path / "x.json")
    assert read == run
    assert other.scalars["train/q2a"].values == (0.0, 0.1429, 0.2857)  # four digits


@pytest.mark.parametrize("content", ["{}", '{"runs": [{"run": "x"}]}', '{"runs": 3}', "no"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json is"):
        read_file(tmp_path / "x.json")


def test_a_curve_of_unequal_lists_is_refused(tmp_path: Path) -> None:
    write_file([a_run("x", 2)], tmp_path / "x.json")
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("[0,1]", "[0]"))
    with pytest.raises(UserError, match=r"no file of curves"):
        read_file(tmp_path / "x.json")


def test_ones_own_run_stands_beside_groups_of_a_committed_file(tmp_path: Path) -> None:
    write_file([a_run("baseline", 3), a_run("mine", 3), a_run("mine", 3, seed=1)], tmp_path / "x.json")
    mine = make_run(tmp_path / "mine", SCALARS)
    curves = gather([tmp_path / "x.json", mine], ["mine"])
    assert [(run.group, run.seed) for run in curves] == [("mine", 0), ("mine", 1), ("mine (2)", 3)]
    with pytest.raises(UserError, match="--groups: there is no yours; there are baseline, mine"):
        gather([tmp_path / "x.json"], ["yours"])
    (tmp_path / "empty.json").write_text('{"runs": []}')
    with pytest.raises(UserError, match="there are no curves in it"):
        gather([tmp_path / "empty.json"])
    with pytest.raises(UserError, match="neither a run folder nor a file"):
        gather([tmp_path / "none"])
    with pytest.raises(UserError, match=r"is no run folder: it has no config\.yaml"):
        gather([tmp_path])


def test_all_splits_of_a_score_share_a_panel(tmp_path: Path) -> None:
    panels = panels_of([read_curves(make_run(tmp_path / "mine", SCALARS))])
    assert panels[("vcr", "q2a")] == ["train/q2a", "val/q2a"]
    assert set(panels) == {("vcr", "q2a"), ("vcr", "q2a_place"), ("vcr", "loss")}


def test_seeds_of_other_steps_are_interpolated_where_all_have_begun_and_none_has_ended() -> None:
    merged = merge_seeds([Curve((0, 10, 20), (0.0, 1.0, 2.0)), Curve((5, 15), (3.0, 5.0))])
    assert {step: list(values) for step, values in merged.items()} == {
        5: [0.5, 3.0],
        10: [1.0, 4.0],
        15: [1.5, 5.0],
    }
    assert not merge_seeds([Curve((0, 1), (0.0, 1.0)), Curve((5, 6), (0.0, 1.0))])


def test_the_command_writes_numbers_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name, SCALARS) for name in ("one", "two")]
    assert run_curves([*map(str, runs), "--out", str(tmp_path / "out" / "both.v2")]) == 0
    assert "both.v2.json" in capsys.readouterr().out
    assert [run.group for run in read_file(tmp_path / "out" / "both.v2.json")] == ["one", "two"]
    with Image.open(tmp_path / "out" / "both.v2.png") as picture:
        assert min(picture.size) > 200
        assert len(set(picture.convert("RGB").resize((64, 64)).getdata())) > 10  # something is drawn
    assert main(["curves", "nowhere", "--out", str(tmp_path / "x")]) == 2
