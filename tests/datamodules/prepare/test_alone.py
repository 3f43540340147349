"""Images without captions and texts without images become shards; what is wrong is told in one sentence."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.prepare.__main__ import main
from datamodules.prepare.texts_alone import packed
from datamodules.shards import RawSample, ShardFolder
from datamodules.tokenizers import load_tokenizer
from tests.datamodules.prepare.raw_files import real_folder
from tests.datamodules.shard_factory import picture


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def samples(folder: Path) -> Iterator[RawSample]:
    shards = ShardFolder(folder)
    for shard, size in enumerate(shards.shard_sizes):
        for row in range(size):
            yield shards.read(shard, row)


def texts(folder: Path) -> list[str]:
    return [raw.record.texts[0].text for raw in samples(folder)]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; return its one line."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert "\n" not in told
    return told


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty pictures in folders of different depth, one of them broken, and a file that is none."""
    raw = tmp_path / "raw"
    for number in range(40):
        file = raw / f"n{number % 3}" / "deep" / f"{number}.jpg" if number % 2 else raw / f"{number}.JPG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number)[: 99 if number == 7 else None])
    (raw / "notes.txt").write_text("no picture")
    return raw


def test_a_folder_of_images_is_converted_each_once(pictures: Path, tmp_path: Path) -> None:
    run("images", "--src", pictures, "--out", tmp_path / "out", "--hold_out", 0.2)
    found = {split: ShardFolder(tmp_path / "out/images" / split) for split in ("train", "val")}
    assert all(folder.kind == "images" for folder in found.values())
    assert sum(map(len, found.values())) == 39
    assert {folder.manifest.skipped.get("unreadable image", 0) for folder in found.values()} == {0, 1}
    names = [raw.record.image_id for split in found for raw in samples(tmp_path / "out/images" / split)]
    assert len(set(names)) == 39
    assert "images/n1/deep/1.jpg" in names
    assert 2 <= len(found["val"]) <= 16


def test_folders_of_splits_are_the_splits(tmp_path: Path) -> None:
    for split, numbers in {"train": range(5), "val": range(5, 7)}.items():
        (tmp_path / "raw" / split / "a").mkdir(parents=True)
        for number in numbers:
            (tmp_path / "raw" / split / "a" / f"{number}.png.jpg").write_bytes(picture(number))
    run("images", "--src", tmp_path / "raw", "--out", tmp_path / "out", "--name", "mine")
    assert [len(ShardFolder(tmp_path / "out/mine" / split)) for split in ("train", "val")] == [5, 2]


def test_a_list_keeps_the_boxes_and_leaves_the_captions_out(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(2):
        (tmp_path / "raw" / f"{number}.jpg").write_bytes(picture(number))
    row = {"image": "0.jpg", "boxes": [[0, 0, 24, 48]], "names": ["dog"], "captions": ["a dog"]}
    lines = [json.dumps(row), json.dumps({"image": "1.jpg"})]
    for split in ("train", "val"):
        (tmp_path / "raw" / f"{split}.jsonl").write_text("\n".join(lines))
    run("images", "--src", tmp_path / "raw", "--out", tmp_path / "out")
    records = {raw.record.image_id: raw.record for raw in samples(tmp_path / "out/images/train")}
    assert records["image_folder/0.jpg"].boxes == ((0.0, 0.0, 0.5, 1.0),)
    assert records["image_folder/0.jpg"].texts == ()
    assert len(records) == 2


def test_other_pictures_are_converted_anew_and_the_same_are_not(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("images", "--src", pictures, "--out", tmp_path / "out", "--hold_out", 0.2)
    run(*command)
    run(*command)
    assert capsys.readouterr().out.count("already converted") == 2
    for number in range(50, 70):
        (pictures / f"{number}.jpg").write_bytes(picture(number))
    run(*command)
    assert sum(len(ShardFolder(tmp_path / "out/images" / split)) for split in ("train", "val")) == 59


def test_a_file_of_json_lines_and_one_of_plain_text(tmp_path: Path) -> None:
    lines = [f"line {number}  of\ttext" for number in range(60)]
    (tmp_path / "wiki.jsonl").write_text("".join(json.dumps({"body": line, "id": 1}) + "\n" for line in lines))
    (tmp_path / "books.txt").write_text("\n\n".join(lines))
    for name, options in (("wiki.jsonl", ["--key", "body"]), ("books.txt", [])):
        out = tmp_path / name.split(".")[0]
        run("texts", "--src", tmp_path / name, "--out", out, "--hold_out", 0.2, *options)
        train, val = (texts(out / "texts" / split) for split in ("train", "val"))
        assert sorted(train + val) == sorted(f"line {number} of text" for number in range(60))
        assert 3 <= len(val) <= 25
        assert ShardFolder(out / "texts/train").kind == "passages"


def test_files_named_by_split_and_folders_of_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "train").mkdir(parents=True)
    (raw / "train" / "a.txt").write_text("one\ntwo")
    (raw / "train" / "b.jsonl").write_text('{"text": "three"}')
    (raw / "val.txt").write_text("four")
    run("texts", "--src", raw, "--out", tmp_path / "out")
    assert sorted(texts(tmp_path / "out/texts/train")) == ["one", "three", "two"]
    assert texts(tmp_path / "out/texts/val") == ["four"]


def test_equal_texts_have_one_id(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("same\nother\nsame")
    run("texts", "--src", tmp_path, "--out", tmp_path / "out", "--splits", "train")
    ids = {raw.record.texts[0].text: raw.record.image_id for raw in samples(tmp_path / "out/texts/train")}
    assert len({raw.sample_id for raw in samples(tmp_path / "out/texts/train")}) == 3
    assert len(set(ids.values())) == 2


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "good"}\n{"text": " "}\n{"text": 3}\nno json\n\n')
    (tmp_path / "val.txt").write_bytes(b"good\n\xff\xfe bad\n")
    run("texts", "--src", tmp_path, "--out", tmp_path / "out")
    train, val = (ShardFolder(tmp_path / "out/texts" / split).manifest for split in ("train", "val"))
    assert train.skipped == {"empty text": 1, "field of a wrong type": 1, "bad json": 1}
    assert val.skipped == {"not UTF-8": 1}


def test_packed_passages_lose_no_word_and_fit(tmp_path: Path, tokenizer_folder: Path) -> None:
    words = [f"{colour} {shape}" for colour in ("red", "green") for shape in ("circle", "square", "cross")] * 40
    (tmp_path / "train.txt").write_text("\n".join(words))
    command = ("texts", "--src", tmp_path, "--splits", "train", "--pack", 16, "--tokenizer", tokenizer_folder)
    run(*command, "--out", tmp_path / "out")
    tokenizer = load_tokenizer(str(tokenizer_folder))
    passages = texts(tmp_path / "out/texts/train")
    lengths = [len(tokenizer(text)["input_ids"]) for text in passages]
    assert max(lengths) <= 16
    assert sorted(" ".join(passages).split()) == sorted(" ".join(words).split())
    assert sorted(lengths)[3] >= 14  # only the last passage of 100 lines is short


def test_packing_restated() -> None:
    costs = {"a": 1, "bb": 2, "ccccc": 5}
    pieces = list(packed(["a bb a", "ccccc bb", "bb a"], 4, lambda words: [costs[word] for word in words]))
    assert pieces == ["a bb a", "ccccc", "bb bb", "a"]


def test_bad_input_is_told_in_one_sentence(
    tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("a")
    (tmp_path / "wiki.jsonl").write_text('{"body": "text"}\n' * 3)
    out = ("--out", tmp_path / "out")
    assert "holds no images" in fails(capsys, "images", "--src", tmp_path / "empty", *out)
    assert "holds no texts" in fails(capsys, "texts", "--src", tmp_path / "empty", *out)
    assert "texts are read from .jsonl" in fails(capsys, "texts", "--src", tmp_path / "a.csv", *out)
    assert "keys ['text'] are missing" in fails(capsys, "texts", "--src", tmp_path / "wiki.jsonl", *out)
    assert "--hold_out is 1" in fails(capsys, "texts", "--src", tmp_path / "wiki.jsonl", "--hold_out", 1, *out)
    assert "--hold_out is 1" in fails(capsys, "images", "--src", tmp_path / "empty", "--hold_out", 1, *out)
    wiki = ("texts", "--src", tmp_path / "wiki.jsonl", "--key", "body", *out)
    assert "--pack is 2" in fails(capsys, *wiki, "--pack", 2)
    assert "name both, or neither" in fails(capsys, *wiki, "--tokenizer", tokenizer_folder)
    assert "has no split 'dev'" in fails(capsys, *wiki, "--splits", "dev")


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_photos_arrive_as_they_are_each_in_one_split(tmp_path: Path) -> None:
    with tarfile.open(real_folder("coco") / "images.tar") as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    photos = {path.relative_to(tmp_path / "raw").as_posix(): path for path in (tmp_path / "raw").rglob("*.jpg")}
    run("images", "--src", tmp_path / "raw", "--out", tmp_path, "--hold_out", 0.1)
    found = [raw for split in ("train", "val") for raw in samples(tmp_path / "images" / split)]
    assert sorted(raw.record.image_id.removeprefix("images/") for raw in found) == sorted(photos)
    assert all(raw.image == photos[raw.record.image_id.removeprefix("images/")].read_bytes() for raw in found)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [None, 64])
def test_no_word_of_real_captions_is_lost(pack: int | None, tmp_path: Path) -> None:
    images = json.loads((real_folder("flickr8k") / "dataset_flickr8k.json").read_text(encoding="utf-8"))["images"]
    captions = [sentence["raw"] for image in images for sentence in image["sentences"]]
    (tmp_path / "all.txt").write_text("\n".join([*captions, "", "  "]), encoding="utf-8")
    run(
        "texts",
        "--src",
        tmp_path / "all.txt",
        "--out",
        tmp_path,
        "--hold_out",
        0.1,
        *(["--pack", pack] if pack else []),
    )
    found = [text.split() for split in ("train", "val") for text in texts(tmp_path / "texts" / split)]
    words = Counter(word for caption in captions for word in caption.split())
    assert Counter(itertools.chain.from_iterable(found)) == words
    if pack:
        assert max(map(len, found)) == pack
    else:
        assert Counter(map(tuple, found)) == Counter(tuple(caption.split()) for caption in captions)
