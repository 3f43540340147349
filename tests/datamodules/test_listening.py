"""JPEGs that decode to something else than was stored are heard of, counted and told; sound ones are not."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerBase

from datamodules.bench.photos import draw_photo
from datamodules.dataset import MicroBatchDataset
from datamodules.listening import Listener
from datamodules.pictures import DamagedError
from datamodules.prepare import Options, convert
from datamodules.prepare.images import prepare_image
from datamodules.pretrain import PretrainBuilder
from datamodules.sampler import MicroBatch
from datamodules.shards import SampleError, ShardFolder
from datamodules.transforms import ImageTransform, decode
from tests.datamodules.prepare.raw_files import skipped, write_lines
from tests.datamodules.shard_factory import make_record, write_shards

BLOCK = 4096  # what a disk loses at a time


def photo(number: int = 0) -> bytes:
    return draw_photo(number)


def blank(data: bytes, start: int, size: int = BLOCK) -> bytes:
    return data[:start] + bytes(size) + data[start + size :]


def test_a_lost_block_is_damage_everywhere() -> None:
    data = photo()
    damaged = blank(data, 20_000)
    with Image.open(io.BytesIO(damaged)) as image:
        image.load()  # Pillow tells nothing
    assert decode(data).shape == (3, 375, 500)
    with pytest.raises(DamagedError, match="Corrupt JPEG data"):
        decode(damaged)
    for longest_side in (None, 100):
        assert prepare_image(data, "a.jpg", longest_side, 90).extension == "jpg"
        with pytest.raises(SampleError, match=r"damaged image: a\.jpg: Corrupt JPEG data"):
            prepare_image(damaged, "a.jpg", longest_side, 90)


def test_most_lost_blocks_are_heard_of() -> None:
    rng, found = np.random.default_rng(0), Counter[str]()
    data = photo()
    for start in rng.integers(1000, len(data) - BLOCK - 2, 30).tolist():
        for damaged in (blank(data, start), data[:start] + data[start + 512 :]):
            try:
                decode(damaged)
                found["nothing"] += 1
            except ValueError:
                found["told"] += 1
    assert found["told"] >= 56, found


def test_the_converter_counts_damaged_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(photo())
    (tmp_path / "images" / "b.jpg").write_bytes(blank(photo(1), 9000))
    write_lines(tmp_path / "train.jsonl", [{"image": name, "caption": "a dog"} for name in ("a.jpg", "b.jpg")])
    convert("image_folder", tmp_path, tmp_path / "out", Options(splits=("train",)))
    assert skipped(tmp_path / "out" / "image_folder" / "train") == {"damaged image": 1}


def test_the_stream_lists_damaged_pictures(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "coco" / "train"
    write_shards(folder, "texts", map(make_record, range(2)), images={"toy/1": blank(photo(), 9000)})
    data = MicroBatchDataset([ShardFolder(folder)], ImageTransform(48), PretrainBuilder(tokenizer, 30, (6, 6), {}), 5)
    batch = data[MicroBatch(0, 0, tuple((0, 0, row) for row in range(4)), 4)]
    assert batch.sample_ids == ("toy/0/0a", "toy/0/0b")
    assert [skip.kind for skip in batch.skipped] == ["damaged image"] * 2
    assert "toy/1/1a): Corrupt JPEG data" in batch.skipped[0].where
    assert capfd.readouterr().err == ""  # libjpeg's own words, which name no sample


def test_what_others_print_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nanother thread\n")
        return 7

    listener = Listener()
    for _ in range(2):
        assert listener.hear(work) == (7, "Corrupt JPEG data: bad Huffman code")
    with pytest.raises(ZeroDivisionError):
        listener.hear(lambda: 1 // 0)
    assert listener.hear(lambda: 8) == (8, "")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "another thread\nanother thread\nafterwards\n"


def test_threads_hear_their_own_pictures() -> None:
    sound, damaged = photo(), blank(photo(), 20_000)
    results: list[bool] = []

    def work(data: bytes, is_sound: bool) -> None:
        for _ in range(10):
            try:
                decode(data)
                results.append(is_sound)
            except DamagedError:
                results.append(not is_sound)

    threads = [threading.Thread(target=work, args=(data, data is sound)) for data in (sound, damaged) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_a_forked_process_listens_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    listener = Listener()
    listener.hear(lambda: None)
    shared = listener.file
    listener.renew()
    assert listener.file == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(shared)
    assert listener.hear(lambda: 1) == (1, "")
    capfd.readouterr()
