"""Names and links that leave the raw folder, in every converter."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import picture, records_of, skipped, write_images, write_json, write_lines
from tests.datamodules.prepare.test_malformed import LAYOUTS, places, write_layout

TRAIN = Options(splits=("train",))
OUTSIDE, LINK = "name outside the raw folder", "link out of the raw folder"
# The key of an image's name, by data set; those of Visual Genome and VQAv2 are numbers.
NAMES = {
    "coco": "file_name",
    "vcr": "img_fn",
    "flickr30k": "filename",
    "coco_karpathy": "filename",
    "snli_ve": "Flickr30K_ID",
    "questions": "image",
    "image_folder": "image",
    "nlvr": "image_prefix",  # of NAME-0.png
}
METADATA = {"boxes": [[0, 0, 20, 10, 1.0]], "names": ["dog"], "width": 40, "height": 20}


def renamed(name: str, image: str) -> dict[str, Any]:
    """Return the files of a raw folder in which every image has one name."""
    files = {path: list(rows) if isinstance(rows, tuple) else rows for path, rows in LAYOUTS[name].items()}
    files = copy.deepcopy(files)
    for holder, key in list(places(files)):
        if key == NAMES[name]:
            holder[key] = image
    return files


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("how", ["../../victim.jpg", "absolute"])
def test_no_converter_reads_a_name_outside_its_raw_folder(name: str, how: str, tmp_path: Path) -> None:
    raw = tmp_path / "above" / "raw"
    raw.mkdir(parents=True)
    write_images(tmp_path, *(f"{folder}victim{end}" for folder in ("", "above/") for end in (".jpg", "-0.png")))
    image = str(tmp_path / "victim.jpg") if how == "absolute" else how
    image = image.removesuffix(".jpg") if name == "nlvr" else image
    write_layout(raw, renamed(name, image))
    told = rf"{OUTSIDE} \(first: '{re.escape(image)}[^']*'; names are paths below --src\)"
    with pytest.raises(ValueError, match=told):
        convert(name, raw, tmp_path / "out", TRAIN)
    assert not (tmp_path / "out" / name / "train").exists()
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out" / name / "train.skips.jsonl").open()]
    assert OUTSIDE in kinds


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Return a raw folder of three images with a box each: a file, a link within, and a link out."""
    raw, away = tmp_path / "raw", tmp_path / "away"
    write_images(raw, "a.jpg")
    write_images(away, "x.jpg")
    (raw / "within.jpg").symlink_to(raw / "a.jpg")
    (raw / "out.jpg").symlink_to(away / "x.jpg")
    boxes = {"boxes": [[0, 0, 20, 10]], "names": ["dog"]}
    names = ("a.jpg", "within.jpg", "out.jpg")
    write_lines(raw / "train.jsonl", [{"image": name, "caption": "a dog", **boxes} for name in names])
    return raw


def test_the_command_that_the_skip_names_reads_the_linked_image_with_its_boxes(
    linked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = linked.parent / "out"
    command = f"image_folder --src {linked} --out {out} --splits train".split()
    main(command)
    assert "1 x link out of the raw folder (first: out.jpg; --follow-links reads it" in capsys.readouterr().out
    folder = out / "image_folder" / "train"
    assert (len(records_of(folder)), skipped(folder)) == (2, {LINK: 1})
    main([*command, "--follow-links"])
    assert "already converted" not in capsys.readouterr().out
    assert [len(record.boxes) for record in records_of(folder).values()] == [1, 1, 1]
    assert skipped(folder) == {}
    main([*command, "--follow-links"])
    assert "already converted" in capsys.readouterr().out


def test_what_was_made_before_the_option_is_still_known(linked: Path) -> None:
    convert("image_folder", linked, linked.parent / "out", TRAIN)
    manifest = ShardFolder(linked.parent / "out" / "image_folder" / "train").manifest
    assert set(manifest.made_from["options"]) == {"longest_side", "quality", "samples_per_shard", "limit", "seed"}


def test_metadata_of_vcr_are_read_through_links_only_on_purpose(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    row = {**LAYOUTS["vcr"]["train.jsonl"][0], "metadata_fn": "out.json"}
    write_lines(raw / "train.jsonl", [row])
    write_images(raw / "vcr1images", "a.jpg")
    write_json(tmp_path / "away.json", METADATA)
    (raw / "vcr1images" / "out.json").symlink_to(tmp_path / "away.json")
    with pytest.raises(ValueError, match=rf"1 x {LINK} \(first: out\.json; --follow-links"):
        convert("vcr", raw, tmp_path / "out", TRAIN)
    convert("vcr", raw, tmp_path / "out", Options(splits=("train",), follow_links=True))
    (record,) = records_of(tmp_path / "out" / "vcr" / "train").values()
    assert record.names == ("dog",)


def test_metadata_of_vcr_whose_links_run_in_a_circle_are_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{**LAYOUTS["vcr"]["train.jsonl"][0], "metadata_fn": "loop.json"}])
    write_images(tmp_path / "vcr1images", "a.jpg")
    (tmp_path / "vcr1images" / "loop.json").symlink_to(tmp_path / "vcr1images" / "loop.json")
    with pytest.raises(ValueError, match=r"1 x unreadable metadata \(first: loop\.json"):
        convert("vcr", tmp_path, tmp_path / "out", TRAIN)


@pytest.mark.parametrize("pattern", ["/elsewhere/*.tar", "", " "])
def test_a_pattern_that_cannot_lie_below_src_is_refused(
    pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sbu", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--pattern", pattern])
    assert caught.value.code == 2
    assert f"error: --pattern {pattern!r}: a pattern below --src is needed" in capsys.readouterr().err


def test_the_list_of_a_split_that_gave_nothing_goes_when_the_split_succeeds(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"image": "a.jpg", "caption": "a dog"}])
    listed = tmp_path / "out" / "image_folder" / "train.skips.jsonl"
    told = []
    for _ in range(2):  # the same bytes each time
        with pytest.raises(ValueError, match=r"1 x missing image \(first: a\.jpg\)"):
            convert("image_folder", tmp_path, tmp_path / "out", TRAIN)
        told.append(listed.read_bytes())
    assert told == [b'{"kind":"missing image","where":"a.jpg"}\n'] * 2
    (tmp_path / "a.jpg").write_bytes(picture())
    convert("image_folder", tmp_path, tmp_path / "out", TRAIN)
    assert not listed.exists()


def test_a_split_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match="no sample can be used: the annotations of this split name none"):
        convert("image_folder", tmp_path, tmp_path / "out", TRAIN)
