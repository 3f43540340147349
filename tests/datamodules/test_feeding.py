"""Pixels as bytes and copies on a stream of their own: the same numbers, and nothing is read before it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from datamodules.feeding import Feeder, normalise_bytes, to_floats
from datamodules.pretrain import PretrainDataModule
from datamodules.transforms import MEAN, STD, normalise
from tests.datamodules.shard_factory import pretrain_module
from tests.datamodules.test_base import equal
from tests.factories import pretrain_batch
from vle_lightning.batch import PretrainBatch

CUDA = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda", 0)))


@pytest.mark.parametrize("colours", [(MEAN, STD), ((0.5, 0.25, 0.5), (0.5, 0.25, 0.125))])
def test_every_level_is_normalised_to_the_bit(colours: tuple[Any, Any]) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_floats(levels, *colours), normalise(levels, *colours))
    pairs = levels[:, None].expand(1, 2, 3, 16, 16)
    assert torch.equal(to_floats(pairs, *colours), normalise(pairs, *colours))


@pytest.mark.parametrize("itm_images", ["shifted", "drawn"])
def test_bytes_become_the_batches_that_floats_are(
    shards: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, itm_images: str
) -> None:
    def batches() -> list[PretrainBatch]:
        module = pretrain_module(shards, tokenizer_folder, itm_images=itm_images, crop_scale=(0.5, 1.0))
        module.setup("fit")
        return [*module.train_dataloader(), *module.val_dataloader()]

    expected = batches()
    monkeypatch.setattr(PretrainDataModule, "sends_bytes", True)
    for batch, before in zip(batches(), expected, strict=True):
        assert batch.pixel_values.dtype == batch.drawn_pixel_values.dtype == torch.uint8
        assert equal(normalise_bytes(batch, MEAN, STD), before)


def test_batches_ahead_are_normalised_too_and_floats_stay() -> None:
    batch = pretrain_batch()
    levels = torch.randint(0, 256, batch.pixel_values.shape, dtype=torch.uint8)
    sent = replace(batch, pixel_values=levels, drawn_pixel_values=levels[:0])
    (ahead,) = normalise_bytes(replace(sent, ahead=(sent,)), MEAN, STD).ahead
    assert torch.equal(ahead.pixel_values, normalise(levels))
    assert normalise_bytes(batch, MEAN, STD) is batch


class Seen(L.LightningModule):
    """Remembers the pixels that it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.pixels = nn.Parameter(torch.zeros(1)), list[Tensor]()

    def training_step(self, batch: PretrainBatch) -> Tensor:
        self.pixels.append(batch.pixel_values)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained_on(shards: Path, tokenizer_folder: Path) -> list[Tensor]:
    seen, module = Seen(), pretrain_module(shards, tokenizer_folder)
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(accelerator="cpu", devices=1, max_steps=2, limit_val_batches=0, **quiet).fit(seen, module)
    return seen.pixels


def test_a_run_sees_the_same_pixels(shards: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained_on(shards, tokenizer_folder)
    monkeypatch.setattr(PretrainDataModule, "sends_bytes", True)
    found = trained_on(shards, tokenizer_folder)
    assert len(found) == len(expected) == 2
    assert all(map(torch.equal, found, expected))


def test_bytes_go_to_gpus_unless_a_codebook_reads_the_pixels(
    shards: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pretrain_module(shards, tokenizer_folder)
    found = [module.sends_bytes]
    monkeypatch.setattr(module, "trainer", CUDA)
    found.append(module.sends_bytes)
    monkeypatch.setattr(PretrainDataModule, "codebook", object())
    assert [*found, module.sends_bytes] == [False, True, False]


def test_a_copy_has_a_stream_of_its_own_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    copying = SimpleNamespace()
    computing = SimpleNamespace(wait_stream=lambda stream: happened.append("wait" if stream is copying else "?"))

    @contextmanager
    def on(stream: object) -> Iterator[None]:
        happened.append("begin" if stream is copying else "?")
        yield
        happened.append("end")

    def move(batch: PretrainBatch, *_: object, **options: object) -> PretrainBatch:
        happened.append("copy" if options == {"non_blocking": True} else "?")
        return batch

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(PretrainBatch, "to", move)
    kept: list[Tensor] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: kept.append(tensor))
    batch = pretrain_batch()
    Feeder().move(replace(batch, ahead=(batch,)), torch.device("cuda", 0))
    assert happened == ["begin", "copy", "end", "wait"]
    assert len(kept) == 2 * sum(isinstance(value, Tensor) for value in vars(batch).values())
