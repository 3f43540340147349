"""The command: exit codes, the report, the numbers as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.inspect.__main__ import main
from datamodules.records import Record, Text
from datamodules.writer import ShardFolderWriter
from tests.datamodules.shard_factory import make_record, picture, write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five records with two texts and three boxes each, and two skipped items."""
    path = tmp_path / "root" / "toy" / "train"
    with ShardFolderWriter(path, "toy", "train", "texts", 4) as writer:
        for number in range(5):
            writer.write(f"{number:05d}", picture(number), "jpg", make_record(number))
        writer.skip("missing image", "image 7")
        writer.skip("no caption", "image 8")
    return path


def test_a_sound_folder_ends_with_0_and_its_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    told = capsys.readouterr().out
    for line in (
        "images: 5; samples: 10 texts, 5 questions, 5 vcr",
        "texts of which it is known which boxes they mention: 5",
        "boxes: 15, 5 of them without a name",
        "person 5, red circle 1, green square 1, blue cross 1, yellow circle 1, red square 1",
        "1 x missing image: image 7",
        "1 x no caption: image 8",
        "no problem found",
    ):
        assert f"{line}\n" in told or f"{line}:" in told
    rows = {line.split("  ")[1].strip(): line.split()[-4:] for line in told.splitlines() if line.startswith("  ")}
    assert rows["words per text"] == ["3", "3", "5", "5"]
    assert rows["boxes per image"] == ["3"] * 4
    assert rows["box area, share of the image"] == ["0.0625", "0.0625", "0.25", "0.25"]
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 1000


def test_texts_alone_are_told_without_images_and_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ShardFolderWriter(tmp_path / "train", "books", "train", "passages") as writer:
        for number in range(3):
            writer.write_passage(f"{number}", Record(f"texts/{number}", texts=(Text("0", "a long story", None),)))
    assert main([str(tmp_path / "train")]) == 0
    told = capsys.readouterr().out
    assert "\n  samples: 3 passages\n" in told
    assert "no problem found: hashes, index and records are sound" in told
    assert not any(word in told for word in ("images", "box"))


def test_json_holds_the_same_numbers(
    folder: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sheet = tmp_path / "deep" / "sheet.png"
    command = [str(folder), "--json", "--quick", "--tokenizer", str(tokenizer_folder), "--sheet", str(sheet)]
    assert main([*command, "--images", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    (found,) = told["folders"]
    assert (found["source"], found["split"], found["kind"]) == ("toy", "train", "texts")
    assert (found["images"], found["boxes"], found["shards"]) == (5, 15, 3)
    kinds = {kind: count for kind, count in found["samples"].items() if count}
    assert kinds == {"texts": 10, "questions": 5, "vcr": 5}
    assert found["classes"]["person"] == 5
    assert found["skipped"] == {"missing image": 1, "no caption": 1}
    assert found["statistics"]["words per text"] == {"min": 3, "median": 3, "p90": 5, "max": 5}
    assert found["statistics"]["tokens per text"]["min"] >= 1
    assert found["problems"] == []
    assert sheet.is_file()
    assert not (folder / "contact_sheet.png").exists()


def test_a_damaged_folder_ends_with_1_and_the_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "000001.tar").write_bytes(b"")
    assert main([str(folder)]) == 1
    told = capsys.readouterr().out
    assert "PROBLEMS: 1\n    000001.tar: " in told
    assert main([str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    (problem,) = found["folders"][0]["problems"]
    assert (problem["shard"], problem["row"], problem["key"]) == ("000001.tar", None, "")
    assert "has 0 bytes" in problem["what"]


def test_a_folder_with_no_sound_shard_is_reported_without_a_sheet(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*.tar"):
        path.unlink()
    assert main([str(folder)]) == 1
    told = capsys.readouterr().out
    assert "PROBLEMS: 3" in told
    assert "images: 0; samples: none" in told
    assert not (folder / "contact_sheet.png").exists()


def test_all_folders_below_a_root_are_inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder.parents[1]
    write_shards(root / "toy" / "val", "questions", map(make_record, range(2)))
    write_shards(root / "toy" / ".test.partial", "questions", map(make_record, range(2)))
    (root / "other" / "val").mkdir(parents=True)
    (root / "other" / "val" / "manifest.json").write_text("{")
    assert main([str(root), "--json", "--images", "0"]) == 1
    found = json.loads(capsys.readouterr().out)["folders"]
    names = [Path(one["folder"]).relative_to(root).as_posix() for one in found]
    assert names == ["other/val", "toy/train", "toy/val"]
    assert "is not a shard manifest" in found[0]["problems"][0]["what"]
    assert [one["images"] for one in found[1:]] == [5, 2]
    assert not list(root.rglob("*.png"))
    assert main([str(root)]) == 1
    assert "other/val:\n  PROBLEMS: 1\n    manifest.json: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/none"], "none is not a folder: give a folder with manifest.json"),
        (["{root}/empty"], "empty holds no shards: give a folder with manifest.json, or one with SOURCE/SPLIT/"),
        (["{folder}", "--images", "-1"], "--images is -1; give 0 to 400"),
        (["{folder}", "--images", "401"], "--images is 401; give 0 to 400"),
        (["{folder}", "--tokenizer", "{root}/none"], "none not found"),
        (["{folder}", "--sheet", "{root}/empty"], "empty"),
        (["{root}/root", "--sheet", "{root}/a.png"], "--sheet names one picture, but"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_needed(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    root = folder.parents[2]
    (root / "empty").mkdir()
    write_shards(folder.with_name("val"), "texts", [make_record(0)])
    assert main([argument.format(root=root, folder=folder) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert message in told.err
    assert "images: " not in told.out


def test_an_unknown_option_ends_with_2(folder: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(folder), "--fast"])
    assert caught.value.code == 2
