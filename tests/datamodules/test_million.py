"""A million samples on disk: opened, sought in the middle and resumed at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.base import VisionLanguageDataModule
from datamodules.codebook import write_codebook
from datamodules.pretrain import PretrainDataModule
from datamodules.pretrain_images import PretrainImagesDataModule
from datamodules.pretrain_texts import PretrainTextsDataModule
from datamodules.records import Kind, Record, Text
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "passages"])
def test_a_million_records_of_one_modality_are_opened_sought_and_resumed_at_once(
    kind: Kind, tmp_path: Path, tokenizer_folder: Path
) -> None:
    image, count = picture(0, 8, 8), IMAGES * TEXTS
    with ShardFolderWriter(tmp_path / "many" / "train", "many", "train", kind) as writer:
        for number in range(count):
            if kind == "images":
                writer.write(f"{number:07d}", image, "jpg", Record(f"toy/{number}"))
            else:
                record = Record(f"toy/{number}", texts=(Text("0", f"small red circle {number}", None),))
                writer.write_passage(f"{number:07d}", record)
    (tmp_path / "many" / "val").symlink_to(tmp_path / "many" / "train")
    patches = np.random.default_rng(0).integers(256, size=(4, 3 * 8**2), dtype=np.uint8)
    write_codebook(tmp_path / "book.safetensors", patches, 8)
    common = options(tmp_path, tokenizer_folder, "many", batch_size=64, global_batch_size=256)

    start = time.perf_counter()
    module: VisionLanguageDataModule[Any, Any]
    if kind == "images":
        del common["tokenizer"]
        module = PretrainImagesDataModule(codebook=str(tmp_path / "book.safetensors"), patch_size=8, **common)
    else:
        module = PretrainTextsDataModule(**common)
    module.setup("fit")
    middle = module.order().steps_per_epoch // 2
    assert module.order().steps_per_epoch == count // 256
    module.load_state_dict({"step": middle, "order": {}})
    batch = next(iter(module.train_dataloader()))
    assert time.perf_counter() - start < SECONDS
    assert (batch.step, len(set(batch.sample_ids))) == (middle, 64)
