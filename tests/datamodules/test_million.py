"""A million samples on disk: opened, sought in the middle and resumed at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from datamodules.pretrain import PretrainDataModule
from datamodules.records import Record, Text
from datamodules.writer import ShardFolderWriter
from tests.datamodules.shard_factory import make_record, picture, write_shards
from tests.datamodules.test_base import options

IMAGES, TEXTS = 20_000, 50
SECONDS = 2.0


@pytest.mark.slow
def test_a_million_samples_are_opened_sought_and_resumed_at_once(tmp_path: Path, tokenizer_folder: Path) -> None:
    image = picture(0)
    with ShardFolderWriter(tmp_path / "texts" / "train", "texts", "train", "texts") as writer:
        for number in range(IMAGES):
            texts = tuple(Text(str(item), f"small red circle {item}", None) for item in range(TEXTS))
            writer.write(f"{number:06d}", image, "jpg", Record(f"toy/{number}", texts=texts))
    write_shards(tmp_path / "texts" / "val", "texts", map(make_record, range(2)))

    start = time.perf_counter()
    module = PretrainDataModule(
        **options(tmp_path, tokenizer_folder, patch_size=8, batch_size=64, global_batch_size=256)
    )
    module.setup("fit")
    middle = module.order().steps_per_epoch // 2
    assert module.order().steps_per_epoch == IMAGES * TEXTS // 256
    module.load_state_dict({"step": middle, "order": {}})
    batch = next(iter(module.train_dataloader()))
    assert time.perf_counter() - start < SECONDS
    assert batch.step == middle
    images = {name.split("/")[1] for name in batch.sample_ids}
    assert len(images) == len(batch) == 64
