"""Reading a micro-batch: what it holds, what it leaves out, what it depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.dataset import MicroBatchDataset
from datamodules.pretrain import PretrainBuilder, PretrainSample
from datamodules.records import Text
from datamodules.sampler import MicroBatch
from datamodules.shards import ShardFolder
from datamodules.transforms import ImageTransform, decode, normalise
from tests.datamodules.shard_factory import make_record, picture, write_shards
from vle_lightning.batch import PretrainBatch

Data = MicroBatchDataset[PretrainSample, PretrainBatch]


def dataset(folder: Path, tokenizer: PreTrainedTokenizerBase, transform: ImageTransform | None = None) -> Data:
    builder = PretrainBuilder(tokenizer, 30, (6, 6), {})
    return MicroBatchDataset([ShardFolder(folder)], transform or ImageTransform(48), builder, seed=5)


def take(*rows: tuple[int, int], valid: int | None = None, step: int = 0, number: int = 0) -> MicroBatch:
    return MicroBatch(step, number, tuple((0, *row) for row in rows), len(rows) if valid is None else valid)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Eight samples of four images; the second image is unreadable, the third has an empty text."""
    records = [make_record(i) for i in range(4)]
    records[2] = replace(records[2], texts=(Text("2a", "", None), records[2].texts[1]))
    folder = tmp_path / "coco" / "train"
    write_shards(folder, "texts", records, images={"toy/1": picture(1)[:100]})
    return folder


def test_a_batch_says_what_it_is(shards: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = dataset(shards / "texts" / "train", tokenizer)[take((1, 1), (0, 0), valid=1, step=7, number=3)]
    assert batch.sample_ids == ("toy/4/4b", "toy/0/0a")
    assert batch.valid.tolist() == [True, False]
    assert (batch.step, batch.number, batch.skipped) == (7, 3, ())
    expected = normalise(torch.stack([decode(picture(4)), decode(picture(0))]))
    assert torch.equal(batch.pixel_values, expected)


def test_unusable_samples_are_left_out_and_listed(broken: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = dataset(broken, tokenizer)[take(*((0, row) for row in range(8)), valid=6)]
    assert batch.sample_ids == ("toy/0/0a", "toy/0/0b", "toy/2/2b", "toy/3/3a", "toy/3/3b")
    assert batch.valid.tolist() == [True, True, True, False, False]
    assert len(batch.pixel_values) == len(batch.input_ids) == len(batch.texts) == 5
    assert [skip.kind for skip in batch.skipped] == ["unreadable image", "unreadable image", "empty text"]
    assert "000000.tar" in batch.skipped[0].where
    assert "toy/1/1a" in batch.skipped[0].where


def test_a_micro_batch_without_a_usable_sample_is_one_filler(broken: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = dataset(broken, tokenizer)[take((0, 2), (0, 3))]
    assert batch.sample_ids == ("toy/2/2b",)  # the next that can be used
    assert batch.valid.tolist() == [False]
    assert [skip.kind for skip in batch.skipped] == ["unreadable image"] * 2


def test_a_shard_without_a_usable_sample_is_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    folder = tmp_path / "coco" / "train"
    write_shards(folder, "texts", [make_record(1)], images={"toy/1": picture(1)[:100]})
    with pytest.raises(ValueError, match=r"step 4, micro-batch 2: none .* unreadable image \(.*000000\.tar"):
        dataset(folder, tokenizer)[take((0, 1), (0, 0), step=4, number=2)]


def test_a_truncated_shard_is_a_listed_skip(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    folder = tmp_path / "coco" / "train"
    write_shards(folder, "texts", map(make_record, range(4)))
    data = dataset(folder, tokenizer)
    shard = folder / "000000.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    batch = data[take(*((0, row) for row in range(8)))]
    assert {skip.kind for skip in batch.skipped} == {"truncated shard"}
    assert len(batch) + len(batch.skipped) == 8


def test_draws_depend_on_step_and_number_alone(shards: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [(0, row) for row in range(8)]
    transform = ImageTransform(32, (0.3, 1.0), flip=True)
    data = dataset(shards / "texts" / "train", tokenizer, transform)
    one, same, step, number = (
        data[take(*rows, step=step, number=number)] for step, number in ((1, 2), (1, 2), (2, 2), (1, 1))
    )
    assert torch.equal(one.pixel_values, same.pixel_values)
    assert torch.equal(one.masked_input_ids, same.masked_input_ids)
    for other in (step, number):
        assert not torch.equal(one.pixel_values, other.pixel_values)
        assert not torch.equal(one.masked_input_ids, other.masked_input_ids)


def test_pictures_are_mirrored_only_where_no_text_says_left_or_right(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    said = [replace(make_record(i), texts=(Text("0", "Leftmost red circle", None),)) for i in range(8)]
    free = [make_record(i) for i in range(8)]
    for name, records in (("said", said), ("free", free)):
        write_shards(
            tmp_path / name / "train",
            "texts",
            records,
            images=dict.fromkeys((r.image_id for r in records), picture(0)),
        )
    plain = normalise(decode(picture(0))[None])[0]
    mirrored = {}
    for name in ("said", "free"):
        data = dataset(tmp_path / name / "train", tokenizer, ImageTransform(48, flip=True))
        batches = [data[take(*((0, row) for row in range(8)), step=step)] for step in range(4)]
        images = torch.cat([batch.pixel_values for batch in batches])
        mirrored[name] = sum(torch.equal(image, plain.flip(-1)) for image in images)
        assert mirrored[name] + sum(torch.equal(image, plain) for image in images) == 32
    assert mirrored["said"] == 0
    assert 6 < mirrored["free"] < 26
