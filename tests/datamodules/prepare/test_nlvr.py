"""NLVR: six drawings of an example, each with the same statement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import real_folder, records_of, skipped, write_images, write_lines

DEV = Options(splits=("dev",))


def row(identifier: str, label: str = "true", **changes: object) -> dict[str, Any]:
    """Return an example in directory 5."""
    return {
        "identifier": identifier,
        "directory": "5",
        "sentence": f"Sentence {identifier}.",
        "label": label,
        "structured_rep": [[], [], []],
        "evals": {"r0": "true"},
        **changes,
    }


def write_drawings(folder: Path, *prefixes: str) -> None:
    """Write the six drawings of each example."""
    write_images(folder, *(f"{prefix}-{number}.png" for prefix in prefixes for number in range(6)))


@pytest.mark.parametrize("place", ["dev/dev.json", "dev.json"])
def test_each_drawing_has_a_record(tmp_path: Path, place: str) -> None:
    write_lines(tmp_path / place, [row("72-0"), row("72-1", "false")])
    write_drawings(tmp_path / "dev" / "images" / "5", "dev-72-0", "dev-72-1")
    convert("nlvr", tmp_path, tmp_path / "out", DEV)
    records = records_of(tmp_path / "out" / "nlvr" / "dev")
    assert set(records) == {f"nlvr/dev-72-{example}-{number}" for example in (0, 1) for number in range(6)}
    assert [vars(statement) for statement in records["nlvr/dev-72-1-4"].statements] == [
        {"id": "72-1-4", "text": "Sentence 72-1.", "label": "false", "group": "72"}
    ]
    assert skipped(tmp_path / "out" / "nlvr" / "dev") == {}


def test_fewer_drawings_and_named_images(tmp_path: Path) -> None:
    write_lines(tmp_path / "dev.json", [row("3-1", image_prefix="hidden-3-1")])
    write_drawings(tmp_path / "images", "hidden-3-1")
    arguments = ["nlvr", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "dev", "--permutations"]
    main([*arguments, "2"])
    assert set(records_of(tmp_path / "out" / "nlvr" / "dev")) == {"nlvr/hidden-3-1-0", "nlvr/hidden-3-1-1"}
    with pytest.raises(SystemExit):
        main([*arguments, "7"])


def test_defects_are_counted_once_an_example(tmp_path: Path) -> None:
    rows = [row("1-0"), row("1-0"), row("1-1", "maybe"), row("1-2", sentence=""), row("1-3", directory=[5]), row("2-0")]
    write_lines(tmp_path / "dev.json", rows)
    write_drawings(tmp_path / "dev" / "images" / "5", "dev-1-0")
    convert("nlvr", tmp_path, tmp_path / "out", DEV)
    assert skipped(tmp_path / "out" / "nlvr" / "dev") == {
        "id given twice": 1,
        "unknown label": 1,
        "empty statement": 1,
        "field of a wrong type": 1,
        "missing image": 6,
    }


@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_real_drawings_belong_to_their_sentences(tmp_path: Path, split: str) -> None:
    src = real_folder("nlvr")
    rows = {r["image_prefix"]: r for r in map(json.loads, (src / f"{split}.json").read_text().splitlines())}
    convert("nlvr", src, tmp_path, Options(splits=(split,), limit=120, workers=1))
    folder = ShardFolder(tmp_path / "nlvr" / split)
    assert (folder.manifest.images, folder.manifest.samples, folder.manifest.skipped) == (120, 120, {})
    for image_id, record in records_of(tmp_path / "nlvr" / split).items():
        raw = rows[image_id.removeprefix("nlvr/").rpartition("-")[0]]
        (statement,) = record.statements
        assert (statement.text, statement.label, statement.group) == (
            " ".join(raw["sentence"].split()),
            raw["label"],
            raw["identifier"].split("-")[0],
        )


def test_sentences_are_held_out_of_training_whole(tmp_path: Path) -> None:
    rows = [row(f"{number}-{example}", sentence=f"S {number}.") for number in range(20) for example in (0, 1)]
    rows += [row(f"{20 + number}-0", sentence=f"s  {number}") for number in range(20)]  # the same under other numbers
    write_lines(tmp_path / "train.json", rows)
    write_drawings(tmp_path / "train" / "images" / "5", *(f"train-{one['identifier']}" for one in rows))
    arguments = ["nlvr", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--permutations", "1"]
    main([*arguments, "--hold_out", "0.3", "--splits", "train", "val"])
    groups = {
        split: [s.group for record in records_of(tmp_path / "out" / "nlvr" / split).values() for s in record.statements]
        for split in ("train", "val")
    }
    numbers = {split: {int(group) % 20 for group in found} for split, found in groups.items()}
    assert not numbers["train"] & numbers["val"]
    every = [str(number) for number in range(20)]
    assert sorted(groups["train"] + groups["val"]) == sorted([*every, *every, *(str(20 + n) for n in range(20))])
    assert 0 < len(numbers["val"]) < 14


@pytest.mark.parametrize("splits", [["train"], ["val", "dev"]])
def test_one_command_holds_out_and_trains(
    tmp_path: Path, splits: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "train.json", [row("1-0")])
    with pytest.raises(SystemExit):
        main(["nlvr", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--hold_out", "0.1", "--splits", *splits])
    assert "name both train and val in --splits" in capsys.readouterr().err


def test_without_a_share_val_is_a_split_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "train.json", [row("1-0")])
    write_drawings(tmp_path / "train" / "images" / "5", "train-1-0")
    with pytest.raises(SystemExit):
        main(["nlvr", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "val"])
    assert "val.json" in capsys.readouterr().err
