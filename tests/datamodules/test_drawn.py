"""ITM with images drawn from the whole data: which, how often, and what stays as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.pretrain import DrawingDataset, PretrainBuilder, PretrainDataModule
from datamodules.records import Text
from datamodules.sampler import MicroBatch
from datamodules.shards import ShardFolder
from datamodules.transforms import ImageTransform, decode, normalise
from tests.datamodules.shard_factory import make_record, picture, pretrain_module, write_shards
from vle_lightning.batch import DataFacts, PretrainBatch
from vle_lightning.tasks.pretrain import PretrainTask

OWN = ("partner", "drawn_rows", "drawn_pixel_values")


def opened(shards: Path, tokenizer_folder: Path, **changes: object) -> PretrainDataModule:
    module = pretrain_module(shards, tokenizer_folder, **({"itm_images": "drawn"} | changes))
    module.setup("fit")
    return module


def equal(one: PretrainBatch, other: PretrainBatch, leave_out: Iterable[str] = ()) -> bool:
    names = {field.name for field in fields(one)} - set(leave_out)
    pairs = ((getattr(one, name), getattr(other, name)) for name in names)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def shown(batch: PretrainBatch) -> list[int]:
    """Return which of the 30 training images each drawn picture is."""
    known = normalise([decode(picture(number)) for number in range(30)])
    found = (batch.drawn_pixel_values[:, None] == known).flatten(2).all(-1)
    assert (found.sum(1) == 1).all()
    return found.long().argmax(1).tolist()


def own_image(batch: PretrainBatch, row: int) -> int:
    return int(batch.sample_ids[row].split("/")[1])


def test_half_of_the_texts_have_a_drawn_image_and_the_rest_is_as_before(shards: Path, tokenizer_folder: Path) -> None:
    changes: dict[str, object] = {"crop_scale": (0.5, 1.0), "flip": True, "patch_share": 0.15}
    before = opened(shards, tokenizer_folder, itm_images="shifted", **changes).train_dataloader()
    now = opened(shards, tokenizer_folder, **changes).train_dataloader()
    for one, other in zip(before, now, strict=True):
        assert equal(one, other, OWN)
        assert len(one.drawn_rows) == len(one.drawn_pixel_values) == 0
        assert other.drawn_pixel_values.shape == (2, 3, 48, 48)
        rest = torch.ones(4, dtype=torch.bool).index_fill(0, other.drawn_rows, False)
        assert rest.sum() == 2
        assert torch.equal(other.partner[rest], torch.arange(4)[rest])


def test_an_image_drawn_by_chance_is_a_match(shards: Path, tokenizer_folder: Path) -> None:
    matches = Counter[bool]()
    for batch in opened(shards, tokenizer_folder, global_batch_size=60, batch_size=60).train_dataloader():
        for row, image in zip(batch.drawn_rows.tolist(), shown(batch), strict=True):
            same = image == own_image(batch, row)
            assert int(batch.partner[row]) == (row if same else -1)
            matches[same] += 1
    assert sum(matches.values()) == 30


def test_the_only_image_is_always_a_match(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "texts" / "train", "texts", [make_record(0)])
    write_shards(tmp_path / "texts" / "val", "texts", [make_record(1)])
    (batch,) = opened(tmp_path, tokenizer_folder, global_batch_size=2, batch_size=2).train_dataloader()
    assert batch.partner.tolist() == [0, 1]
    assert len(batch.drawn_rows) == 1


def dataset(shards: Path, tokenizer: Any, names: Iterable[str] = ("train",)) -> DrawingDataset:  # noqa: ANN401
    folders = [ShardFolder(shards / "texts" / name) for name in names]
    return DrawingDataset(folders, ImageTransform(48), PretrainBuilder(tokenizer, 30, (6, 6), {}), seed=3)


def test_each_sample_of_all_sources_is_drawn_equally_often(shards: Path, tokenizer: Any) -> None:  # noqa: ANN401
    data = dataset(shards, tokenizer, ("train", "val"))
    drawn = data.draw_places(8200, np.random.default_rng(0))
    sizes = [folder.shard_sizes for folder in data.folders]
    every = [
        (s, shard, row) for s, shards_ in enumerate(sizes) for shard, size in enumerate(shards_) for row in range(size)
    ]
    counts = Counter(drawn)
    assert set(counts) == set(every)  # 82 samples
    assert max(abs(counts[place] - 100) for place in every) < 50  # five deviations


def test_draws_are_of_the_micro_batch_alone(shards: Path, tokenizer_folder: Path, tokenizer: Any) -> None:  # noqa: ANN401
    alone = list(opened(shards, tokenizer_folder).train_dataloader())
    helped = list(opened(shards, tokenizer_folder, workers=2).train_dataloader())
    assert all(equal(one, other) for one, other in zip(alone, helped, strict=True))
    resumed = opened(shards, tokenizer_folder).train_dataloader()
    resumed.load_state_dict({"step": 3})
    assert all(equal(one, other) for one, other in zip(resumed, alone[6:], strict=True))
    data = dataset(shards, tokenizer)
    places = tuple((0, 0, row) for row in range(8))
    rows = [data[MicroBatch(step, number, places, 8)].drawn_rows.tolist() for step in range(4) for number in range(4)]
    assert len(set(map(tuple, rows))) > 10


def test_evaluation_shifts_texts(shards: Path, tokenizer_folder: Path) -> None:
    drawn, shifted = (opened(shards, tokenizer_folder, itm_images=images) for images in ("drawn", "shifted"))
    pairs = list(zip(drawn.val_dataloader(), shifted.val_dataloader(), strict=True))
    assert all(equal(one, other) for one, other in pairs)
    assert any((batch.partner != torch.arange(len(batch))).any() for batch, _ in pairs)


def test_a_drawn_image_that_cannot_be_read_leaves_a_match(tokenizer_folder: Path, tmp_path: Path) -> None:
    broken = {f"toy/{number}": b"no picture" for number in range(10, 30)}
    for split, numbers in {"train": range(30), "val": range(30, 32)}.items():
        write_shards(tmp_path / "texts" / split, "texts", map(make_record, numbers), images=broken)
    batches = list(opened(tmp_path, tokenizer_folder, batch_size=60, global_batch_size=60).train_dataloader())
    (batch,) = batches
    lost = [skip for skip in batch.skipped if not skip.lost]
    assert len(batch) == 20
    assert {skip.kind for skip in lost} == {"unreadable image"}
    assert len(lost) + len(batch.drawn_rows) == 10
    assert (batch.partner == -1).sum() <= len(batch.drawn_rows)
    assert len(batch.drawn_rows) > 0


def test_a_text_of_left_and_right_has_no_mirrored_image(tokenizer: Any, tmp_path: Path) -> None:  # noqa: ANN401
    records = [replace(make_record(n), texts=(Text("0", "red circle left of small cross", None),)) for n in range(30)]
    write_shards(tmp_path / "texts" / "train", "texts", records, samples_per_shard=30)
    folders = [ShardFolder(tmp_path / "texts" / "train")]
    builder = PretrainBuilder(tokenizer, 30, (6, 6), {})
    data = DrawingDataset(folders, ImageTransform(48, flip=True), builder, seed=3)
    batch = data[MicroBatch(0, 0, tuple((0, 0, row) for row in range(30)), 30)]
    stored = normalise([decode(picture(number)) for number in range(30)])
    assert len(batch.drawn_pixel_values) == 15
    assert all(any(torch.equal(drawn, image) for image in stored) for drawn in batch.drawn_pixel_values)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_half_is_rounded_down(shards: Path, tokenizer: Any, rows: int) -> None:  # noqa: ANN401
    batch = dataset(shards, tokenizer)[MicroBatch(0, 0, tuple((0, 0, row) for row in range(rows)), rows)]
    assert len(batch.drawn_rows) == len(batch.drawn_pixel_values) == rows // 2


def test_without_mismatches_every_text_stays_with_its_image(shards: Path, tokenizer_folder: Path) -> None:
    module = opened(shards, tokenizer_folder, itm_images="none")
    batches = [*module.train_dataloader(), *module.val_dataloader()]
    assert len(batches) > 2
    assert all(torch.equal(batch.partner, torch.arange(len(batch))) for batch in batches)
    assert module.facts().mismatches is False
    (told,) = PretrainTask("tiny", {"itm": 1.0}).disagreements(DataFacts(mismatches=False))
    assert "data.itm_images is none" in told
    assert PretrainTask("tiny", {"pbc": 1.0}).disagreements(DataFacts(mismatches=False)) == []
