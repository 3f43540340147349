"""The command line of the converters."""

from __future__ import annotations

import errno
import importlib
from pathlib import Path

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.prepare.engine import all_classes
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import write_json
from tests.datamodules.prepare.test_coco import write_coco

OPTIONS = "--out --name --splits --longest-side --quality --samples-per-shard --limit --seed --workers --force"


def write_twenty(src: Path) -> None:
    """Write a training split of twenty images with a caption each."""
    write_coco(src, [{"caption": "a dog", "image_id": image} for image in range(1, 21)], [{}], images=20)


def words(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, single-spaced."""
    return " ".join(capsys.readouterr().out.split())


def test_a_module_with_a_data_set_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"coco", "visual_genome", "vqav2", "vcr", "conceptual_captions", "sbu"}
    assert names <= set(all_classes())
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    told = words(capsys)
    assert all(name in told for name in names)
    assert "COCO captions and instances" in told


@pytest.mark.parametrize("name", sorted(all_classes()))
def test_the_help_of_every_data_set_says_its_layout_and_every_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    told = words(capsys)
    module = importlib.import_module(all_classes()[name].__module__)
    assert all(option in told for option in [*OPTIONS.split(), "--src"])
    assert " ".join((module.__doc__ or "").split()) in told
    assert "Raw layout: ``" in told


def test_every_option_arrives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_twenty(tmp_path)
    command = f"coco --src {tmp_path} --out {tmp_path}/out --name mine --splits train --longest-side 10 --quality 50"
    command += " --samples-per-shard 3 --limit 9 --seed 5 --workers 2"
    main(command.split())
    folder = ShardFolder(tmp_path / "out" / "mine" / "train")
    assert folder.shard_sizes == (3, 3, 3)
    assert folder.manifest.source == "mine"
    assert folder.manifest.made_from["options"] == {
        "longest_side": 10,
        "quality": 50,
        "samples_per_shard": 3,
        "limit": 9,
        "seed": 5,
    }
    assert "9 images; left out: nothing" in words(capsys)
    main([*command.split()[:-1], "1"])
    assert "already converted" in words(capsys)
    main([*command.split(), "--force"])
    assert "9 images; left out: nothing" in words(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "train"], "none of captions_train2017.json"),
        (["--limit", "0"], "limit is 0"),
        (["--workers", "0"], "workers is 0"),
        (["--quality", "101"], "quality is 101"),
        (["--name", "../up"], "'../up' cannot be a folder"),
        (["--splits", "train", "a/b"], "'a/b' cannot be a folder"),
        (["--longest_sid", "3"], "longest_sid"),
        (["--quality", "x"], "quality"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["coco", "--src", str(tmp_path), "--out", str(tmp_path / "out"), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("defect", "message"),
    [("file in the way", "Not a directory"), ("full disk", "No space left"), ("no images", "no images: none of")],
)
def test_what_the_system_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, defect: str, message: str
) -> None:
    write_twenty(tmp_path)
    if defect == "file in the way":
        (tmp_path / "out").write_text("")
    if defect == "no images":
        (tmp_path / "images").rename(tmp_path / "elsewhere")
    if defect == "full disk":
        error = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr("datamodules.partial.os.fsync", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit) as caught:
        main(["coco", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "train"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_twenty(tmp_path)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.prepare.engine.write_items", stop)
    with pytest.raises(SystemExit) as caught:
        main(["coco", "--src", str(tmp_path), "--out", str(tmp_path / "out"), "--splits", "train"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_an_unknown_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'openimages'; known are ade20k, "):
        convert("openimages", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="quality is 0"):
        Options(quality=0)


def test_a_file_that_an_option_names_is_part_of_what_a_split_is_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = {"question_id": 1, "image_id": 1, "question": "what?"}
    answer = {"question_id": 1, "image_id": 1, "multiple_choice_answer": "a", "answers": [{"answer": "a"}]}
    write_json(tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json", {"questions": [question]})
    answer |= {"answer_type": "other", "question_type": "what"}
    write_json(tmp_path / "v2_mscoco_train2014_annotations.json", {"annotations": [answer]})
    write_coco(tmp_path, [], [], images=1)
    (tmp_path / "images" / f"{1:012d}.jpg").rename(tmp_path / "images" / f"COCO_train2014_{1:012d}.jpg")
    command = f"vqav2 --src {tmp_path} --out {tmp_path}/out --splits train --keep_unlisted true"
    command += f" --answers {tmp_path}/answers.json"
    for content, expected in ((["a"], "1 images"), (["a"], "already converted"), (["b"], "1 images")):
        write_json(tmp_path / "answers.json", content)
        main(command.split())
        assert expected in words(capsys)


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with code 2; return its one line."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


def test_when_everything_is_left_out_the_first_place_of_each_kind_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    lines = ['{"image": NaN, "caption": "a dog"}', '{"image": "b.jpg", "caption": "a dog"}', "{"]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    told = failure(capsys, "image_folder", "--src", tmp_path, "--out", tmp_path / "out", "--splits", "train")
    assert "1 x field of a wrong type (first: " in told
    assert "train.jsonl, line 1: 'image' is nan, not a file name)" in told
    assert "1 x missing image (first: b.jpg)" in told
    assert "1 x bad json (first: " in told
    listed = (tmp_path / "out" / "image_folder" / "train.skips.jsonl").read_text().splitlines()
    assert len(listed) == 3


def test_an_array_in_the_place_of_the_official_object_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path, [], [], images=1)
    for file in tmp_path.rglob("captions_train*.json"):
        write_json(file, [1, 2])
    told = failure(capsys, "coco", "--src", tmp_path, "--out", tmp_path / "out", "--splits", "train")
    assert "a JSON object with the key 'images' is needed, this is an array of 2" in told
