"""Statements about one picture and about two, from shards to batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.nlvr import NLVRDataModule
from datamodules.nlvr2 import NLVR2DataModule
from datamodules.records import Record, Statement
from datamodules.shards import RawSample, SampleError
from datamodules.snli_ve import SNLIVEDataModule
from datamodules.statements import StatementBuilder, StatementDataModule
from datamodules.transforms import View, decode, normalise
from datamodules.writer import ShardFolderWriter
from tests.datamodules.shard_factory import picture
from vle_lightning.batch import IGNORED, StatementBatch

WHOLE = View(48, 48, 0, 0, 48, 48)


def record(number: int, label: str | None = "true") -> Record:
    statement = Statement(f"s{number}", "small red circle", label, f"g{number // 2}")
    return Record(f"toy/{number}", statements=(statement,))


def write_pairs(folder: Path, without: int | None = None) -> None:
    with ShardFolderWriter(folder, folder.parent.name, folder.name, "statements", 8) as writer:
        for number in range(6):
            right = None if number == without else (picture(100 + number), "jpg")
            label = "true" if number % 2 else "false"
            writer.write(f"{number:05d}", picture(number), "jpg", record(number, label), right)


def validation(module: StatementDataModule) -> list[StatementBatch]:
    module.setup("validate")
    return list(module.val_dataloader())


def test_a_pair_is_two_pictures_left_then_right(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_pairs(tmp_path / "nlvr2" / "val")
    module = NLVR2DataModule(
        root=tmp_path, sources={"nlvr2": 1.0}, tokenizer=str(tokenizer_folder), batch_size=6, image_size=48, workers=0
    )
    (batch,) = validation(module)
    assert batch.pixel_values.shape == (6, 2, 3, 48, 48)
    for row, name in enumerate(batch.statement_ids):
        number = int(name[1:])
        both = normalise([decode(picture(number)), decode(picture(100 + number))])
        torch.testing.assert_close(batch.pixel_values[row], both)
        assert batch.targets[row] == (0 if number % 2 else 1)
        assert batch.groups[row] == f"g{number // 2}"


def test_a_pair_with_one_picture_is_left_out_and_named(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_pairs(tmp_path / "nlvr2" / "val", without=3)
    module = NLVR2DataModule(
        root=tmp_path, sources={"nlvr2": 1.0}, tokenizer=str(tokenizer_folder), batch_size=6, image_size=48, workers=0
    )
    (batch,) = validation(module)
    assert len(batch) == 5
    (skip,) = batch.skipped
    assert (skip.kind, skip.lost) == ("pair with one picture", True)
    assert "toy/3/s3" in skip.where


def test_labels_become_the_numbers_of_their_classes(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = StatementBuilder(tokenizer, 30, SNLIVEDataModule.CLASSES)

    def target(label: str | None) -> int:
        return builder.parse(RawSample("x", b"", record(0, label), 0, "shard"), WHOLE).target

    assert [target(label) for label in ("entailment", "neutral", "contradiction", None)] == [0, 1, 2, IGNORED]
    with pytest.raises(SampleError, match=r"unknown label: shard \(x\): 'maybe' is none of entailment, neutral"):
        target("maybe")


def test_an_empty_statement_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    blank = record(0)
    blank = replace(blank, statements=(replace(blank.statements[0], text=" "),))
    with pytest.raises(SampleError, match=r"empty text: shard \(x\)"):
        StatementBuilder(tokenizer, 30, ("true", "false")).parse(RawSample("x", b"", blank, 0, "shard"), WHOLE)


@pytest.mark.parametrize("classes", [["true"], ["true", "true"]])
def test_classes_are_at_least_two_and_different(tmp_path: Path, tokenizer_folder: Path, classes: list[str]) -> None:
    module = NLVRDataModule(root=tmp_path, sources={"x": 1.0}, tokenizer=str(tokenizer_folder), classes=classes)
    with pytest.raises(ValueError, match=r"data\.classes is \['true'.*name at least two, each once"):
        module.check()
