"""Images alone and texts alone: what a batch holds, its order, resuming, ranks, broken samples, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.base import VisionLanguageDataModule
from datamodules.codebook import PatchCodebook, cluster, patches_of, write_codebook
from datamodules.masking import covered_patches
from datamodules.pretrain_images import PretrainImagesDataModule
from datamodules.pretrain_texts import PretrainTextsDataModule
from datamodules.records import Kind, Record, Text
from datamodules.sampler import EvalSampler, MicroBatchSampler
from datamodules.shards import ShardFolder
from datamodules.transforms import ImageTransform
from datamodules.writer import ShardFolderWriter
from tests.datamodules.shard_factory import make_record, picture, write_shards
from vle_lightning.batch import IGNORED, Batch

CODES = 5
Make = Callable[..., VisionLanguageDataModule[Any, Any]]


def write_passages(folder: Path, texts: Iterable[str], per_shard: int = 8) -> None:
    with ShardFolderWriter(folder, folder.parent.name, folder.name, "passages", per_shard) as writer:
        for number, text in enumerate(texts):
            writer.write_passage(f"{number:07d}", Record(f"texts/{number}", texts=(Text("0", text, None),)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT/{pictures,lines,coco}/{train,val}: 30 and 11 images, texts; coco's images have two texts each."""
    root = tmp_path_factory.mktemp("alone") / "shards"
    for split, numbers in {"train": range(30), "val": range(100, 111)}.items():
        write_shards(root / "pictures" / split, "images", (replace(make_record(n), texts=()) for n in numbers))
        write_shards(root / "coco" / split, "texts", map(make_record, numbers))
        write_passages(root / "lines" / split, (make_record(n).texts[1].text for n in numbers))
    return root


@pytest.fixture(scope="module")
def codebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("codes") / "book.safetensors"
    noise = torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, 48, 48), dtype=np.uint8))
    write_codebook(file, cluster(patches_of([noise], 8), CODES), 8)
    return file


def common(root: Path, source: str, **changes: object) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "root": str(root),
        "sources": {source: 1.0},
        "batch_size": 4,
        "global_batch_size": 8,
        "workers": 0,
    }
    return {**chosen, "image_size": 48, **changes}


def images(root: Path, codebook: Path, source: str = "pictures", **changes: object) -> PretrainImagesDataModule:
    options = {"codebook": str(codebook), "patch_size": 8, **common(root, source, **changes)}
    module = PretrainImagesDataModule(**options)
    module.setup("fit")
    return module


def texts(root: Path, tokenizer: Path, source: str = "lines", **changes: object) -> PretrainTextsDataModule:
    module = PretrainTextsDataModule(tokenizer=str(tokenizer), **common(root, source, **changes))
    module.setup("fit")
    return module


@pytest.fixture(params=["images", "texts"])
def make(request: pytest.FixtureRequest, root: Path, codebook: Path, tokenizer_folder: Path) -> Make:
    """A function that makes either data module with some options."""
    if request.param == "images":
        return lambda **changes: images(root, codebook, **changes)
    return lambda **changes: texts(root, tokenizer_folder, **changes)


def equal(one: Batch, other: Batch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def names(batches: Iterable[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.sample_ids]


def test_a_batch_of_images_has_codes_and_objects_of_every_patch(root: Path, codebook: Path) -> None:
    batch = next(iter(images(root, codebook).train_dataloader()))
    assert batch.pixel_values.shape == (4, 3, 48, 48)
    assert batch.hidden_patches.sum(1).tolist() == [14] * 4  # 0.4 of 36
    assert torch.equal(batch.patch_codes, PatchCodebook.load(codebook).encode(batch.pixel_values))
    boxes = np.array(make_record(0).boxes)  # all records have the same
    assert torch.equal(batch.object_patches, torch.from_numpy(covered_patches(boxes, (6, 6)).any(0)).expand(4, -1))


def test_a_batch_of_texts_is_masked(root: Path, tokenizer_folder: Path) -> None:
    module = texts(root, tokenizer_folder, mask_share=0.5, content_words=["circle", "cross", "square"])
    for batch in module.train_dataloader():
        chosen = batch.mlm_targets != IGNORED
        assert torch.equal(batch.mlm_targets[chosen], batch.input_ids[chosen])
        assert torch.equal(batch.masked_input_ids[~chosen], batch.input_ids[~chosen])
        assert not (chosen & ~batch.attention_mask).any()
        assert batch.mlm_content.any()
        assert batch.texts[0] in {make_record(n).texts[1].text for n in range(30)}


def test_a_long_text_is_cut(tmp_path: Path, tokenizer_folder: Path) -> None:
    for split in ("train", "val"):
        write_passages(tmp_path / "lines" / split, ["small red circle " * 40] * 8)
    batch = next(iter(texts(tmp_path, tokenizer_folder, max_text_length=9).train_dataloader()))
    assert batch.input_ids.shape == (4, 9)


def test_folders_of_pairs_give_each_image_once_and_each_caption_alone(
    root: Path, codebook: Path, tokenizer_folder: Path
) -> None:
    seen = names(images(root, codebook, "coco").val_dataloader())
    assert len(seen) == len({name.rsplit("/", 1)[0] for name in seen}) == 11
    captions = [t for batch in texts(root, tokenizer_folder, "coco").val_dataloader() for t in batch.texts]
    assert sorted(captions) == sorted(text.text for n in range(100, 111) for text in make_record(n).texts)
    assert len(images(root, codebook, "coco").train_dataloader()) == 30 // 8 * 2


def test_an_epoch_has_every_sample_at_most_once_and_workers_change_nothing(make: Make) -> None:
    alone = list(make().train_dataloader())
    assert len(names(alone)) == len(set(names(alone))) == 24  # three steps of eight
    assert all(map(equal, alone, list(make(workers=2).train_dataloader())))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_stream_gives_the_very_next_micro_batch(make: Make, stop: int) -> None:
    loader = make().train_dataloader()
    whole = [batch for _ in range(2) for batch in loader]
    resumed = make()
    resumed.load_state_dict({"step": stop})
    loader = resumed.train_dataloader()
    rest = [batch for _ in range(2) for batch in loader]
    assert len(rest) >= 12 - 2 * stop
    assert all(map(equal, rest, whole[2 * stop :]))  # zip ends with the shorter


def test_one_rank_reads_what_two_do(make: Make) -> None:
    module = make()
    data = module.training_data(module._train_folders(), ImageTransform(48))

    def read(rank: int, ranks: int) -> dict[tuple[int, int], Batch]:
        sampler = MicroBatchSampler(module.order(), module.batch_size, rank, ranks)
        return {(which.step, which.number): data[which] for which in sampler}

    one, two = read(0, 1), read(0, 2) | read(1, 2)
    assert one.keys() == two.keys()
    assert all(equal(one[place], two[place]) for place in one)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_sees_each_sample_once_on_any_number_of_ranks(make: Make, ranks: int) -> None:
    module = make()
    folders = module.eval_folders("val")
    data = module.evaluation_data(folders, ImageTransform(48))
    seen: list[str] = []
    for rank in range(ranks):
        sampler = EvalSampler([folder.shard_sizes for folder in folders], 4, rank, ranks)
        for batch in map(data.__getitem__, sampler):
            seen += [name for name, valid in zip(batch.sample_ids, batch.valid.tolist(), strict=True) if valid]
    assert len(seen) == len(set(seen)) == 11


def test_broken_samples_are_left_out_and_told(tmp_path: Path, codebook: Path, tokenizer_folder: Path) -> None:
    for split in ("train", "val"):
        records = (replace(make_record(n), texts=()) for n in range(8))
        write_shards(tmp_path / "pictures" / split, "images", records, images={"toy/3": picture(3)[:99]})
        write_passages(tmp_path / "lines" / split, ["  " if n == 3 else f"small red circle {n}" for n in range(8)])
    for module, kind in (
        (images(tmp_path, codebook, batch_size=8), "unreadable image"),
        (texts(tmp_path, tokenizer_folder, batch_size=8), "empty text"),
    ):
        (batch,) = module.train_dataloader()
        assert (len(batch), batch.planned) == (7, 8)
        assert [skip.kind for skip in batch.skipped] == [kind]


def test_a_changed_byte_of_a_passage_is_found(tmp_path: Path) -> None:
    write_passages(tmp_path / "lines" / "train", [f"small red circle {n}" for n in range(4)])
    shard = tmp_path / "lines" / "train" / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"circle 2", b"circle 7"))
    folder = ShardFolder(shard.parent)
    assert folder.read(0, 1).record.texts[0].text == "small red circle 1"
    with pytest.raises(Exception, match="damaged sample"):
        folder.read(0, 2)


def test_what_cannot_be_is_refused_in_one_sentence(root: Path, codebook: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.sources: .*lines/train holds texts without images"):
        images(root, codebook, "lines")
    with pytest.raises(ValueError, match=r"holds images, but task pretrain_texts reads passages or texts"):
        texts(root, tokenizer_folder, "pictures")
    with pytest.raises(ValueError, match=r"data\.patch_share is 0"):
        images(root, codebook, patch_share=0.0)
    with pytest.raises(ValueError, match=r"data\.mask_share is 2"):
        texts(root, tokenizer_folder, mask_share=2.0)
    with pytest.raises(FileNotFoundError, match=r"data\.codebook: .*nowhere"):
        images(root, root / "nowhere.safetensors")
    with pytest.raises(ValueError, match=r"patches of 8 px, but data\.patch_size is 16"):
        images(root, codebook, patch_size=16)


def test_facts_name_what_there_is(root: Path, codebook: Path, tokenizer_folder: Path) -> None:
    of_images, of_texts = images(root, codebook).facts(), texts(root, tokenizer_folder).facts()
    assert (of_images.vocabulary, of_images.text_length, of_images.image_size, of_images.codes) == (None, None, 48, 5)
    assert (of_texts.image_size, of_texts.pixels, of_texts.padding) == (None, None, 0)


@pytest.mark.parametrize(("kind", "image"), [("passages", b"x"), ("images", None)])
def test_passages_have_no_image_and_all_else_has_one(tmp_path: Path, kind: Kind, image: bytes | None) -> None:
    record = Record("a", texts=(Text("0", "a", None),))
    with (
        pytest.raises(ValueError, match="images of"),
        ShardFolderWriter(tmp_path / "a" / "train", "a", "train", kind) as writer,
    ):
        writer.write("1", image, "jpg", record) if image else writer.write_passage("1", record)
