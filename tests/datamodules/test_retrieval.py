"""Training pairs with shifted texts; evaluation over images with all their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.dataset import BatchHead
from datamodules.images import ImagesOfFolder
from datamodules.records import Text
from datamodules.retrieval import RetrievalBuilder, RetrievalDataModule
from datamodules.sampler import EvalSampler
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.transforms import View
from tests.datamodules.shard_factory import make_record, write_shards
from vle_lightning.batch import RetrievalBatch

WHOLE = View(48, 48, 0, 0, 48, 48)


def captioned(number: int, captions: int) -> RawSample:
    """Make an image with so many texts."""
    texts = tuple(Text(f"{k}", f"small circle above cross {k}", None) for k in range(captions))
    record = replace(make_record(number), texts=texts)
    return RawSample(f"toy/{number}/0", b"", record, 0, "shard")


def head(rows: int) -> BatchHead:
    return BatchHead(("x",) * rows, torch.ones(rows, dtype=torch.bool), 0, 0, (), torch.zeros(rows, 3, 8, 8))


def batch_of(builder: RetrievalBuilder, raws: Sequence[RawSample], seed: int = 0) -> RetrievalBatch:
    samples = [builder.parse(raw, WHOLE) for raw in raws]
    return builder.collate(head(len(raws)), samples, np.random.default_rng(seed))


def module(root: Path, tokenizer: Path, **options: Any) -> RetrievalDataModule:  # noqa: ANN401
    given: dict[str, Any] = {
        "sources": {"texts": 1.0},
        "batch_size": 4,
        "global_batch_size": 4,
        "image_size": 48,
        "workers": 0,
    }
    return RetrievalDataModule(root=str(root), tokenizer=str(tokenizer), **{**given, **options})


@pytest.mark.parametrize(("rows", "negatives", "drawn"), [(8, 3, 3), (4, 15, 3), (1, 15, 0)])
def test_training_draws_distinct_shifts_up_to_the_batch(
    tokenizer: PreTrainedTokenizerBase, rows: int, negatives: int, drawn: int
) -> None:
    builder = RetrievalBuilder(tokenizer, 30, negatives)
    seen = set()
    for seed in range(20):
        batch = batch_of(builder, [captioned(number, 2) for number in range(rows)], seed)
        shifts = batch.shifts.tolist()
        assert len(set(shifts)) == len(shifts) == drawn
        assert set(shifts) <= set(range(1, rows))
        seen |= set(shifts)
    assert seen == (set(range(1, rows)) if drawn else set())
    assert batch.owners.tolist() == list(range(rows))
    assert batch.input_ids.shape[0] == rows
    assert batch.text_ids == tuple(f"toy/{number}/0" for number in range(rows))


def test_evaluation_has_all_texts_of_each_image(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = RetrievalBuilder(tokenizer, 30, 15, all_texts=True)
    batch = batch_of(builder, [captioned(7, 3), captioned(8, 1), captioned(9, 2)])
    assert batch.owners.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.sample_ids == batch.image_ids == ("toy/7", "toy/8", "toy/9")
    assert batch.text_ids == ("toy/7/0", "toy/7/1", "toy/7/2", "toy/8/0", "toy/9/0", "toy/9/1")
    assert len(batch.input_ids) == len(batch.attention_mask) == len(batch.texts) == 6
    assert batch.shifts.shape == (0,)


def test_an_empty_text_is_left_out_and_named(tokenizer: PreTrainedTokenizerBase) -> None:
    raw = captioned(7, 3)
    texts = tuple(replace(text, text=" ") if text.id == "1" else text for text in raw.record.texts)
    raw = replace(raw, record=replace(raw.record, texts=texts))
    batch = batch_of(RetrievalBuilder(tokenizer, 30, 15, all_texts=True), [raw])
    assert batch.text_ids == ("toy/7/0", "toy/7/2")
    assert [(skip.kind, skip.where, skip.lost) for skip in batch.skipped] == [("empty text", "shard (toy/7/1)", False)]
    with pytest.raises(SampleError, match=r"empty text: shard \(toy/7/0\)"):
        RetrievalBuilder(tokenizer, 30, 15).parse(replace(raw, item=1), WHOLE)


def test_an_image_whose_texts_are_all_empty_cannot_be_used(tokenizer: PreTrainedTokenizerBase) -> None:
    raw = captioned(7, 1)
    raw = replace(raw, record=replace(raw.record, texts=(Text("0", "\n", None),)))
    with pytest.raises(SampleError, match=r"image without text: shard \(toy/7/0\)"):
        RetrievalBuilder(tokenizer, 30, 15, all_texts=True).parse(raw, WHOLE)


def test_a_folder_by_images_reads_each_image_once(shards: Path) -> None:
    by_text = ShardFolder(shards / "texts" / "val")
    by_image = ImagesOfFolder(by_text)
    assert (len(by_text), len(by_image)) == (22, 11)
    raws = [by_image.read(shard, row) for shard, size in enumerate(by_image.shard_sizes) for row in range(size)]
    assert [raw.record.image_id for raw in raws] == [f"toy/{number}" for number in range(100, 111)]
    assert {raw.item for raw in raws} == {0}
    assert len(set(by_image.numbers().tolist())) == 11
    assert [by_image.locate(place).record.image_id for place in (0, 4, 10)] == ["toy/100", "toy/104", "toy/110"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_image_counts_once_over_the_ranks(shards: Path, world: int) -> None:
    folder = ImagesOfFolder(ShardFolder(shards / "texts" / "val"))
    seen: Counter[tuple[int, int, int]] = Counter()
    for rank in range(world):
        for micro in EvalSampler([folder.shard_sizes], 4, rank, world):
            seen.update(micro.samples[: micro.valid])
    assert len(seen) == 11
    assert set(seen.values()) == {1}


def test_loaders_give_texts_in_training_and_images_in_evaluation(shards: Path, tokenizer_folder: Path) -> None:
    data = module(shards, tokenizer_folder, limit_val=6, test_split="val")
    data.setup("fit")
    assert len(data.train_dataloader()) == 15  # 60 texts
    assert next(iter(data.train_dataloader())).owners.tolist() == [0, 1, 2, 3]
    validated = [name for batch in data.val_dataloader() for name in batch.image_ids]
    assert len(set(validated)) == len(validated) == 6  # images
    data.setup("test")
    tested = list(data.test_dataloader())
    assert sum(len(batch) for batch in tested) == 11
    assert sum(len(batch.texts) for batch in tested) == 22


def test_an_image_in_two_sources_is_named(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    for source, numbers in (("a", (1, 2, 3)), ("b", (4, 2))):
        for split in ("train", "val"):
            write_shards(tmp_path / source / split, "texts", map(make_record, numbers))
    both: dict[str, Any] = {"sources": {"a": 1.0, "b": 1.0}}
    with pytest.raises(ValueError, match=r"image 'toy/2' is there twice, in .*a/val.* and in .*b/val"):
        module(tmp_path, tokenizer_folder, **both).setup("fit")
    module(tmp_path, tokenizer_folder, **both, val_sources=["b"]).setup("fit")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"negatives": 0}, r"data\.negatives is 0"),
        ({"batch_size": 1}, r"data\.batch_size is 1.*give 16, or at least 2"),
    ],
)
def test_bad_options_name_the_key(shards: Path, tokenizer_folder: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        module(shards, tokenizer_folder, **options).check()
