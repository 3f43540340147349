"""What `make bench-data` times against each other sees the same pictures."""

from __future__ import annotations

import io
import json
import tarfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.bench.command import main
from datamodules.bench.photos import CAPTIONS, COPIES, draw_photo, take_photos, write_photos
from datamodules.bench.ways import (
    best_of_alternating,
    centre,
    delivered,
    loader_of,
    micro_batch,
    pillow_batch,
    stream_batch,
    whole_records,
)
from datamodules.shards import ShardFolder
from datamodules.transforms import STD, ImageTransform

Photos = list[tuple[bytes, str]]


@pytest.fixture(scope="module")
def photos() -> Photos:
    return take_photos(None, 2)


@pytest.fixture(scope="module")
def folder(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    place = tmp_path_factory.mktemp("bench") / "bench" / "train"
    write_photos(photos, place)
    return ShardFolder(place)


def test_drawn_photos_are_as_large_as_photos_and_the_same_each_time(photos: Photos) -> None:
    for number, (photo, _) in enumerate(photos):
        assert photo == draw_photo(number)
        assert Image.open(io.BytesIO(photo)).size == (500, 375)
        assert 45_000 < len(photo) < 62_000
    assert photos[0] != photos[1]


def test_both_paths_see_the_same_picture(photos: Photos, folder: ShardFolder) -> None:
    ours = stream_batch(folder, range(0, 2 * CAPTIONS, CAPTIONS), ImageTransform(224))
    plain = pillow_batch([photo for photo, _ in photos], 224)
    assert ours.shape == plain.shape == (2, 3, 224, 224)
    levels = (ours - plain).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    # Pillow's side is 224 of 298.67 columns, rounded, so that it sees a third of a pixel more
    assert levels.mean() < 2


@pytest.mark.parametrize(("size", "box"), [((500, 375), (62, 0, 437, 375)), ((30, 50), (0, 10, 30, 40))])
def test_the_centre_is_the_largest_square(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    view = centre(*size)
    assert (view.x0, view.y0, view.x1, view.y1) == box


def test_photos_come_from_folders_tars_and_shards(photos: Photos, folder: ShardFolder, tmp_path: Path) -> None:
    pictures, tar = tmp_path / "pictures", tmp_path / "pictures.tar"
    pictures.mkdir()
    (pictures / "notes.txt").write_text("no picture")
    for number, (photo, _) in enumerate(photos):
        (pictures / f"{number}.JPEG").write_bytes(photo)
    with tarfile.open(tar, "w") as file:
        file.add(pictures, "pictures")
    shards = tmp_path / "bench" / "train"
    write_photos(photos, shards)
    assert take_photos(pictures, 2) == take_photos(shards, 2) == photos
    assert sorted(take_photos(tar, 2)) == sorted(photos)
    with pytest.raises(ValueError, match=r"--photos: .*pictures holds 2 JPEGs.*--count 2"):
        take_photos(pictures, 3)
    with pytest.raises(ValueError, match=r"notes\.txt is not a readable tar"):
        take_photos(pictures / "notes.txt", 1)
    with pytest.raises(FileNotFoundError, match="absent not found"):
        take_photos(tmp_path / "absent", 1)


def test_the_loader_delivers_an_epoch_and_a_slow_device_waits_less(folder: ShardFolder, tokenizer_folder: Path) -> None:
    records = whole_records(folder, str(tokenizer_folder), 32)
    assert len(records[micro_batch([0, CAPTIONS])]) == 2
    assert len(folder) == 2 * COPIES * CAPTIONS
    with closing(loader_of(records, 8, workers=0)) as loader:
        assert len(loader) == len(folder) // 8
        start = time.perf_counter()
        rate, share = delivered(loader, step_seconds=0.05)
        seconds = time.perf_counter() - start
    counted = 8 * (len(loader) - 1)  # all but the first batch
    assert counted / seconds < rate < 8 / 0.05
    assert 0 < share <= 1 - 0.05 * rate / 8 + 1e-6  # no sleep is shorter than asked for


def test_ways_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0, 3, 0, 2, 0, 1, 0, 4]).tolist())  # a takes 3 and 1 seconds, b takes 2 and 4
    monkeypatch.setattr("datamodules.bench.ways.time.process_time", lambda: next(clock))
    calls: list[str] = []
    best = best_of_alternating({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b", "a", "b"]
    assert best == {"a": 1, "b": 2}


@pytest.mark.slow
def test_the_command_prints_every_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        "sys.argv",
        ["bench", "--count", "2", "--image-size", "32", "--repeats", "1", "--workers", "1", "--demand", "1000"],
    )
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # as the command sets it: put back afterwards
    threads = torch.get_num_threads()
    try:
        main()
    finally:
        torch.set_num_threads(threads)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    speed = {name: printed[f"images_per_second/{name}"] for name in ("pillow", "decoding", "image_path", "record")}
    assert printed["image_path_vs_pillow"] == pytest.approx(speed["image_path"] / speed["pillow"])
    assert printed["image_path_vs_decoding"] == pytest.approx(speed["image_path"] / speed["decoding"])
    assert printed["workers"] == 1
    assert printed["samples_per_second/loader"] > 0
    assert 0 <= printed["data_wait_share/1000_per_second"] <= 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--count 1", "--count is 1"),
        ("--image-size 100", "--image-size is 100"),
        ("--repeats 0", "--repeats is 0"),
        ("--demand -3", "--demand"),
        ("--photos nowhere", "nowhere not found"),
    ],
)
def test_impossible_options_are_refused(
    arguments: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
