"""The raw layouts that drawings are written in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from datamodules.nlvr_world import build, chunks
from datamodules.nlvr_world.__main__ import main
from datamodules.nlvr_world.build import build_world
from datamodules.nlvr_world.chunks import Options
from datamodules.prepare import Options as Conversion
from datamodules.prepare.coco import Dataset as Coco
from datamodules.prepare.engine import convert_dataset
from datamodules.prepare.nlvr import Dataset
from datamodules.shards import ShardFolder

BOTH = Conversion(splits=("train", "val"))


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_equal_options_give_equal_bytes_and_other_seeds_others(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        build_world(tmp_path / name, Options(6, 3, 4, 2, 4, 2, seed), 1)
    one, same, other = (digests(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    assert len(one) == 4 + 4 + 6
    assert all(one[name] != other[name] for name in one)


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 2)
    for name, processes in (("one", 1), ("two", 2)):
        build_world(tmp_path / name, Options(5, 3, 4, 2, 5, 2), processes)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_an_interrupted_call_leaves_no_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_world(tmp_path, Options(3, 2, 3, 2, 3, 2), 1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "write_coco", stop)
    with pytest.raises(KeyboardInterrupt):
        build_world(tmp_path, Options(3, 2, 3, 2, 3, 2, seed=1), 1)
    assert not (tmp_path / "coco").exists()


@pytest.mark.parametrize("source", ["nlvr", "easy"])
def test_the_converter_of_nlvr_reads_all_statements(source: str, tmp_path: Path) -> None:
    build_world(tmp_path / "raw", Options(5, 2, 5, 2, 1, 1), 1)
    convert_dataset(source, Dataset(tmp_path / "raw" / source, 1), tmp_path, BOTH, {})
    for split, statements in (("train", 5), ("val", 2)):
        folder = ShardFolder(tmp_path / source / split)
        assert folder.manifest.samples == 2 * statements
        assert not folder.manifest.skipped
        groups = [s.group for row in range(2 * statements) for s in folder.read(0, row).record.statements]
        assert sorted(groups) == sorted(2 * [str(number) for number in range(statements)])
        names = {folder.read(0, row).record.image_id for row in range(2 * statements)}
        assert all(name.startswith(f"nlvr/{source}-{split}-") for name in names)  # no other source has them


def test_the_converter_of_coco_reads_all_captions_with_what_they_mention(tmp_path: Path) -> None:
    build_world(tmp_path / "raw", Options(1, 1, 1, 1, 6, 3), 1)
    convert_dataset("coco", Coco(tmp_path / "raw" / "coco"), tmp_path, BOTH, {})
    for split, scenes in (("train", 6), ("val", 3)):
        file = tmp_path / "raw" / "coco" / "annotations" / f"captions_{split}2017.json"
        captions = json.loads(file.read_text())["annotations"]
        folder = ShardFolder(tmp_path / "coco" / split)
        assert (folder.manifest.images, folder.manifest.samples) == (scenes, len(captions))
        assert not folder.manifest.skipped
        read = [folder.read(0, row) for row in range(len(captions))]
        mentioned = {raw.record.texts[raw.item].id: len(raw.record.texts[raw.item].boxes or ()) for raw in read}
        assert mentioned == {str(row["id"]): len(row["mentions"]) for row in captions}
        assert min(mentioned.values()) > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--train-scenes", "0"], "--train-scenes is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--train-scenes", "1000001"], "give at most 1,000,000"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_no_drawing_of_val_occurs_in_train(tmp_path: Path) -> None:
    build_world(tmp_path, Options(300, 100, 300, 100, 300, 100), 1)
    shown = {
        split: {
            json.dumps(json.loads(line)["structured_rep"])
            for source in ("nlvr", "easy")
            for line in (tmp_path / source / f"{split}.json").read_text().splitlines()
        }
        for split in ("train", "val")
    }
    assert not shown["train"] & shown["val"]
    assert len(shown["val"]) > 200
