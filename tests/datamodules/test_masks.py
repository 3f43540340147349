"""Masks are seen as their pictures are; batches of classes and masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.classification import ClassificationDataModule
from datamodules.masks import cut_mask, see_mask
from datamodules.records import Label, Mask, Record
from datamodules.segmentation import SegmentationDataModule
from datamodules.shards import ShardFolder
from datamodules.transforms import ImageTransform, View
from datamodules.writer import ShardFolderWriter
from tests.datamodules.prepare.test_ade20k import png
from tests.datamodules.shard_factory import picture
from vle_lightning.batch import IGNORED, LabelBatch, MaskBatch

CLASSES = ["red left shoe", "blue", "green"]


@given(seed=st.integers(0, 2**20), cell=st.integers(1, 4), zoom=st.integers(1, 3), flip=st.booleans())
def test_a_mask_stays_on_its_pixels(seed: int, cell: int, zoom: int, flip: bool) -> None:
    """Of a picture of flat squares, seen at a whole multiple of its size, colours and numbers are the same still."""
    rng = np.random.default_rng(seed)
    numbers = torch.from_numpy(rng.integers(0, 5, (6, 7), dtype=np.uint8)).repeat_interleave(cell, 0)
    mask = numbers.repeat_interleave(cell, 1)
    side, y0, x0 = int(rng.integers(1, 6)) * cell, int(rng.integers(2)) * cell, int(rng.integers(2)) * cell
    view = View(7 * cell, 6 * cell, x0, y0, x0 + side, y0 + side, flip)
    seen = see_mask(mask, view, zoom * side)
    expected = mask[y0 : y0 + side, x0 : x0 + side].repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    assert torch.equal(seen, expected.flip(-1) if flip else expected)
    if zoom == 1:
        image = ImageTransform(side).apply(40 * mask.expand(3, -1, -1).contiguous(), view)
        assert torch.equal(image[0], 40 * seen)


@given(seed=st.integers(0, 2**20), size=st.integers(4, 40))
def test_picture_and_mask_keep_their_centre_at_any_size(seed: int, size: int) -> None:
    """A bright rectangle and its mask, resampled, overlap: no side is off by more than the pixel it blurs over."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(8, 60, 2).tolist()
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2] = 1
    transform = ImageTransform(size, (0.5, 1.0), flip=True)
    view = transform.draw(rng, width, height, may_flip=True)
    seen = see_mask(mask, view, size)
    image = transform.apply(255 * mask.expand(3, -1, -1).contiguous(), view)[0]
    assert (image[seen == 1] >= 50).all()  # a corner is half covered from two sides
    assert (image[seen == 0] <= 165).all()


def test_a_mask_at_its_own_size_is_only_cut_and_mirrored() -> None:
    mask = torch.arange(12, dtype=torch.uint8).view(3, 4)
    assert cut_mask(mask, View(4, 3, 1, 0, 3, 2, flipped=True)).tolist() == [[2, 1], [6, 5]]


def write(folder: Path, kind: str, records: Sequence[tuple[Record, bytes | None]]) -> None:
    """Write a shard folder of pictures of 48 x 48, with masks where there are any."""
    with ShardFolderWriter(folder, folder.parent.name, folder.name, kind) as writer:  # type: ignore[arg-type]
        for number, (record, mask) in enumerate(records):
            writer.write(f"{number:03d}", picture(number), "jpg", record, None if mask is None else (mask, "png"))


def options(root: Path, source: str, **changes: object) -> dict[str, Any]:
    classes = root / "classes.json"
    classes.write_text(json.dumps(CLASSES))
    common = {"root": str(root), "sources": {source: 1.0}, "classes": classes, "image_size": 24, "workers": 0}
    return common | {"batch_size": 4, "global_batch_size": 4} | changes


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    names = ("blue", None, "green", "black", "red left shoe")
    for split in ("train", "val"):
        records = [(Record(f"{split}/{n}", labels=(Label("0", name),)), None) for n, name in enumerate(names)]
        write(tmp_path / "images" / split, "labels", records)
    return tmp_path


def test_images_come_with_the_number_of_their_class(labelled: Path) -> None:
    module = ClassificationDataModule(**options(labelled, "images"))
    module.setup("fit")
    batches = list(module.val_dataloader())
    assert all(isinstance(batch, LabelBatch) for batch in batches)
    found = {name: target for b in batches for name, target in zip(b.sample_ids, b.targets.tolist(), strict=True)}
    assert found == {"val/0/0": 1, "val/1/0": IGNORED, "val/2/0": 2, "val/4/0": 0}
    assert [skip.kind for batch in batches for skip in batch.skipped] == ["unknown label"]
    assert (module.facts().classes, module.facts().vocabulary, module.labels()) == (3, None, CLASSES)
    assert module.builder().parse(ShardFolder(labelled / "images" / "val").read(0, 0), View(1, 1, 0, 0, 1, 1)) == 1


def test_masks_come_with_their_pictures(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 4, (24, 24), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    for split in ("train", "val"):
        masks = [png(whole), png(whole[:, ::-1].copy()), png(whole[:40]), png(whole + 1), b"no picture"]
        write(
            tmp_path / "m" / split,
            "masks",
            [(Record(f"{split}/{n}", masks=(Mask("0"),)), m) for n, m in enumerate(masks)],
        )
    module = SegmentationDataModule(**options(tmp_path, "m", batch_size=8, global_batch_size=2, crop_scale=(0.5, 1.0)))
    module.setup("fit")
    (batch,) = module.val_dataloader()
    assert isinstance(batch, MaskBatch)
    assert batch.sample_ids == ("val/0/0", "val/1/0")
    assert torch.equal(batch.targets[0], batch.targets[1].flip(-1))
    assert set(batch.targets.unique().tolist()) == {IGNORED, 0, 1, 2}
    np.testing.assert_array_equal(batch.own_targets[0], whole)
    assert sorted(skip.kind for skip in batch.skipped) == [
        *("mask of another size", "unknown class in the mask", "unreadable mask")
    ]
    first = next(iter(module.train_dataloader()))
    assert first.targets.shape[1:] == (24, 24)
    assert first.own_targets == ()


def test_a_mask_shard_needs_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record '000' has no mask; give it as a PNG"):
        write(tmp_path / "m" / "train", "masks", [(Record("a", masks=(Mask("0"),)), None)])


@pytest.mark.parametrize(
    ("content", "told"),
    [('["one"]', "at least two class names"), ('{"a": 0, "b": 5}', "at least two"), (None, "no such file")],
)
def test_the_list_of_classes_must_be_one(content: str | None, told: str, labelled: Path) -> None:
    module = ClassificationDataModule(**options(labelled, "images"))
    if content is None:
        module.class_file.unlink()
    else:
        module.class_file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        module.check()


def test_records_without_labels_and_masks_are_what_they_were() -> None:
    assert b"labels" not in Record("a").to_json()
    assert b"masks" not in Record("a").to_json()
    for record in (Record("a", labels=(Label("0", None),)), Record("b", masks=(Mask("0"),)), Record("c")):
        assert Record.from_json(record.to_json()) == record
