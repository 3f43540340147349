"""Conversions: the same bytes however they were interrupted, and nothing made twice."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.manifest import Manifest
from datamodules.prepare import Options, convert, engine
from datamodules.prepare.engine import convert_dataset, encoded_images
from datamodules.prepare.images import Folder, Place, read_image
from datamodules.prepare.parallel import ordered_map
from datamodules.prepare.raw import Item, Order, RawDataset
from datamodules.prepare.rows import SkipDefect
from datamodules.records import Record, Statement, Text
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import picture, write_images
from tests.datamodules.prepare.test_coco import write_coco
from tests.datamodules.prepare.test_foreign import write_tar

SMALL = Options(splits=("train",), samples_per_shard=4, workers=2)
BROKEN, MISSING = (3, 9, 17), (5, 11)


def write_raw(src: Path, images: int = 24) -> None:
    """Write a COCO split with a caption an image; some images are broken, missing or without a caption."""
    captions = [{"caption": f"a dog {image}" * (image % 6 > 0), "image_id": image} for image in range(1, images + 1)]
    write_coco(src, captions, [{}], images=images)
    for image in BROKEN:
        (src / "images" / f"{image:012d}.jpg").write_bytes(picture()[:300])
    for image in MISSING:
        (src / "images" / f"{image:012d}.jpg").unlink()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_conversions_killed_at_any_moment_end_with_the_same_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw" / "coco", 15)
    for number in range(4):
        samples = [(f"{number}{key}", picture(key), f"caption {key}" * (key != number)) for key in range(4)]
        write_tar(tmp_path / "raw" / "conceptual_captions" / f"{number:05d}.tar", samples)
    command = [sys.executable, "-m", "tests.datamodules.prepare.dying", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    for name in ("coco", "conceptual_captions"):
        whole = contents(tmp_path / name / "whole")
        killed = [path for path in (tmp_path / name).iterdir() if path.name.isdigit()]
        assert len(killed) >= 12
        for folder in killed:
            assert contents(folder) == whole, folder.name
        assert any(f"{folder / name / 'train'}: going on after" in run.stdout for folder in killed)
        assert len(ShardFolder(killed[0] / name / "train")) == {"coco": 9, "conceptual_captions": 12}[name]


class Interrupted:
    """Reads images until it has read enough."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
        self.read: list[str] = []
        self.limit = limit
        self.original = read_image
        monkeypatch.setattr(engine, "read_image", self)
        monkeypatch.setattr(engine, "CHUNK", 1)

    def __call__(self, places: list[Place], name: str) -> bytes:
        if self.limit is not None and len(self.read) >= self.limit:
            raise KeyboardInterrupt
        self.read.append(name)
        return self.original(places, name)


def test_images_of_finished_shards_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw")
    convert("coco", tmp_path / "raw", tmp_path / "whole", SMALL)
    first = Interrupted(monkeypatch, 18)
    with pytest.raises(KeyboardInterrupt):
        convert("coco", tmp_path / "raw", tmp_path / "out", replace(SMALL, workers=1))
    assert not (tmp_path / "out" / "coco" / "train").exists()
    journal = sorted((tmp_path / "out" / "coco" / ".train.partial" / "journal").iterdir())
    done = sum(json.loads(path.read_bytes())["content"]["items"] for path in journal)
    assert len(journal) >= 2
    first.limit, first.read = None, []
    # moved raw files are the same files, and the number of workers decides nothing
    (tmp_path / "raw").rename(tmp_path / "moved")
    convert("coco", tmp_path / "moved", tmp_path / "out", SMALL)
    assert len(first.read) == 20 - done  # 24 images, 4 of them without a caption
    assert f"going on after {len(journal)} finished shards" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_every_skip_is_counted_once_and_listed_in_a_fixed_order(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw")
    convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
    folder = tmp_path / "out" / "coco" / "train"
    manifest = ShardFolder(folder).manifest
    assert manifest.skipped == {"empty caption": 4, "no caption": 4, "unreadable image": 3, "missing image": 2}
    assert manifest.images == 24 - 4 - 3 - 2
    listed = [json.loads(line) for line in (folder / "skips.jsonl").read_text().splitlines()]
    assert tuple(listed) == manifest.skips
    assert [skip["kind"] in ("empty caption", "no caption") for skip in listed] == [True] * 8 + [False] * 5
    missing = {f"{image:012d}.jpg" for image in MISSING}
    assert {skip["where"] for skip in listed if skip["kind"] == "missing image"} == missing


def test_a_second_run_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(tmp_path / "raw")
    convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    convert("coco", tmp_path / "raw", tmp_path / "out", replace(SMALL, workers=5))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    assert "already converted" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    convert("coco", tmp_path / "raw", tmp_path / "out", replace(SMALL, force=True))
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out" / "coco" / "train" / "manifest.json").stat().st_mtime_ns not in times.values()


@pytest.mark.parametrize("change", ["option", "annotation", "shard", "manifest"])
def test_what_was_made_from_something_else_or_is_damaged_is_made_anew(tmp_path: Path, change: str) -> None:
    write_raw(tmp_path / "raw")
    folder = tmp_path / "out" / "coco" / "train"
    convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
    options = replace(SMALL, samples_per_shard=100) if change == "option" else SMALL
    if change == "annotation":
        write_raw(tmp_path / "raw", 20)
    if change == "shard":
        (folder / "000001.tar").write_bytes(b"")
    if change == "manifest":
        (folder / "manifest.json").write_text('{"format": 1}')
    convert("coco", tmp_path / "raw", tmp_path / "out", options)
    convert("coco", tmp_path / "raw", tmp_path / "expected", options)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_an_interrupted_conversion_from_something_else_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(tmp_path / "raw")
    convert("coco", tmp_path / "raw", tmp_path / "whole", replace(SMALL, seed=1))
    reading = Interrupted(monkeypatch, 18)
    with pytest.raises(KeyboardInterrupt):
        convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
    reading.limit = None
    convert("coco", tmp_path / "raw", tmp_path / "out", replace(SMALL, seed=1))
    assert "made from something else" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_older_split_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_raw(tmp_path / "raw")
    folder = tmp_path / "out" / "coco" / "train"
    convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
    before = contents(folder)
    Interrupted(monkeypatch, 18)
    with pytest.raises(KeyboardInterrupt):
        convert("coco", tmp_path / "raw", tmp_path / "out", replace(SMALL, seed=1))
    assert contents(folder) == before


def test_two_conversions_of_one_split_at_a_time_are_refused(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw")
    (tmp_path / "out" / "coco" / ".train.partial").mkdir(parents=True)
    script = f"import fcntl, os, sys; fcntl.flock(os.open({str(tmp_path / 'out/coco/.train.partial')!r}, 0), 2)"
    script += "; print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match="another conversion is writing this split"):
            convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
        other.send_signal(signal.SIGKILL)
    convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)


class Pairs(RawDataset):
    """Pairs of images with one statement each; one pair lacks its right image."""

    kind = "statements"

    def image_places(self, split: str) -> tuple[str, ...]:
        """Return the one folder."""
        return ("images",)

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return nothing: the items stand below."""
        return ()

    def items(self, split: str, order: Order, skip: SkipDefect) -> Iterator[Item]:
        """Yield three pairs."""
        for number in range(3):
            statement = Statement(str(number), "both are red", "true", "")
            yield Item(f"p{number}", "a.jpg", Record(f"pairs/{number}", statements=(statement,)), f"{number}.png")

    def finish(self, out: Path) -> None:
        """Write a file beside the sources."""
        assert not (out / "pairs" / "train").exists()
        (out / "finished").write_text("")


def test_a_pair_keeps_both_images_and_is_left_out_whole(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.jpg")
    for number in (0, 2):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture(number, file_format="PNG"))
    convert_dataset("pairs", Pairs(tmp_path), tmp_path / "out", SMALL)
    folder = ShardFolder(tmp_path / "out" / "pairs" / "train")
    assert [folder.read(0, row).right for row in range(2)] == [picture(n, file_format="PNG") for n in (0, 2)]
    assert folder.read(0, 1).image == (tmp_path / "images" / "a.jpg").read_bytes()
    assert folder.manifest.skips == ({"kind": "missing image", "where": "1.png"},)
    assert (tmp_path / "out" / "finished").is_file()


def test_few_images_are_in_memory_at_a_time(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg")
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield Item(str(number), "a.jpg", Record(str(number), texts=(Text("0", "a dog", None),)))

    stream = encoded_images(items(), [Folder(tmp_path)], Options(workers=2), True)
    for given, _ in enumerate(itertools.islice(stream, 500)):
        assert taken <= given + 16 * (2 * 2 + 1)
    stream.close()  # type: ignore[attr-defined]


def test_an_error_in_a_thread_ends_the_map(tmp_path: Path) -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 3:
            raise OSError("no more")
        done.append(number)
        return number

    with pytest.raises(OSError, match="no more"):
        list(ordered_map(work, range(1000), 1))
    assert len(done) < 10


def test_the_manifest_says_what_a_split_was_made_from(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw")
    convert("coco", tmp_path / "raw", tmp_path / "out", SMALL)
    made_from = Manifest.read(tmp_path / "out" / "coco" / "train" / "manifest.json").made_from
    hashed = subprocess.run(
        ["sha256sum", "captions_train2017.json", "instances_train2017.json"],
        cwd=tmp_path / "raw" / "annotations",
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split() for line in hashed.stdout.splitlines())
    assert made_from == {
        "data_set": "coco",
        "arguments": {},
        "options": {"longest_side": None, "quality": 90, "samples_per_shard": 4, "limit": None, "seed": 0},
        "annotations": {f"annotations/{name}": digest for digest, name in lines},
    }
