"""The raw layout that drawings are written in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from datamodules.nlvr_world.__main__ import main
from datamodules.nlvr_world.build import WorldOptions, build_world
from datamodules.prepare import Options
from datamodules.prepare.engine import convert_dataset
from datamodules.prepare.nlvr import Dataset
from datamodules.shards import ShardFolder


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_equal_options_give_equal_bytes_and_other_seeds_others(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        build_world(tmp_path / name, WorldOptions(6, 3, seed), 1)
    one, same, other = (digests(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert set(one) == {"train.json", "train_images.tar", "val.json", "val_images.tar"}
    assert all(one[name] != other[name] for name in one)


def test_the_converter_of_the_official_layout_reads_all_of_it(tmp_path: Path) -> None:
    build_world(tmp_path / "raw", WorldOptions(5, 2), 1)
    convert_dataset("nlvr", Dataset(tmp_path / "raw", 1), tmp_path, Options(splits=("train", "val")), {})
    for split, statements in (("train", 5), ("val", 2)):
        folder = ShardFolder(tmp_path / "nlvr" / split)
        assert folder.manifest.samples == 2 * statements
        assert not folder.manifest.skipped
        groups = [s.group for row in range(2 * statements) for s in folder.read(0, row).record.statements]
        assert sorted(groups) == sorted(2 * [str(number) for number in range(statements)])


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--train", "0"], "--train is 0"), (["--seed", "-1"], "--seed is -1")]
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), *arguments]) == 2
    assert told in capsys.readouterr().err
