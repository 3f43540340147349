"""Means and deviations that pixels are normalised by, from the options to batches, checks and the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.transforms import MEAN, STD, ImageTransform, normalise
from tests.datamodules.shard_factory import pretrain_module
from vle_lightning.batch import DataFacts
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.inference.processor import Processor
from vle_lightning.tasks.pretrain import PretrainTask

MIDDLE, WIDTH = (0.5, 0.25, 0.5), (0.5, 0.25, 0.125)
PIXELS = {"pixel_mean": MIDDLE, "pixel_std": WIDTH}


def test_black_and_white_are_where_mean_and_deviation_say() -> None:
    pictures = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    black, white = ImageTransform(4, pixel_mean=MIDDLE, pixel_std=WIDTH).normalise(pictures)
    torch.testing.assert_close(black[:, 0, 0], torch.tensor([-1.0, -1.0, -4.0]))
    torch.testing.assert_close(white[:, 3, 3], torch.tensor([1.0, 3.0, 4.0]))
    assert torch.equal(ImageTransform(4).normalise(pictures), normalise(pictures, MEAN, STD))


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_batches_are_normalised_as_the_options_say(shards: Path, tokenizer_folder: Path, loader: str) -> None:
    batches = []
    for changes in ({}, PIXELS):
        module = pretrain_module(shards, tokenizer_folder, **changes)
        module.setup("fit")
        batches.append(next(iter(getattr(module, loader)())).pixel_values)
    colours = [torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD, MIDDLE, WIDTH)]
    shown = batches[0] * colours[1] + colours[0]
    torch.testing.assert_close((shown - colours[2]) / colours[3], batches[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pixel_mean": (0.5, 0.5, 127.0)}, r"data\.pixel_mean is \[0\.5, 0\.5, 127\.0\]; give three numbers"),
        ({"pixel_mean": (0.5, 0.5)}, r"data\.pixel_mean is \[0\.5, 0\.5\]; give three numbers"),
        ({"pixel_std": (0.5, 0.5, float("nan"))}, r"data\.pixel_std is .*; give three numbers"),
        ({"pixel_std": (0.5, 0.0, 0.5)}, r"data\.pixel_std is .*none of them 0"),
    ],
)
def test_impossible_colours_name_their_key(
    shards: Path, tokenizer_folder: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        pretrain_module(shards, tokenizer_folder, **changes).check()


def test_the_data_module_says_pixels_and_padding(shards: Path, tokenizer_folder: Path) -> None:
    module = pretrain_module(shards, tokenizer_folder, **PIXELS)
    assert module.facts().pixels == (MIDDLE, WIDTH)
    assert module.facts().padding == module.tokenizer.pad_token_id == 0


def test_pixels_and_padding_that_the_model_was_not_trained_with_are_told() -> None:
    task = PretrainTask("tiny", {"mlm": 1.0})
    fitting = DataFacts(10, 48, pixels=(MEAN, STD), padding=0)
    assert task.disagreements(fitting) == []
    rounded = fitting._replace(pixels=((0.4814547, 0.4578275, 0.4082107), STD))
    assert task.disagreements(rounded) == []
    (told,) = task.disagreements(fitting._replace(pixels=(MIDDLE, STD)))
    assert told.startswith("data.pixel_mean is [0.5, 0.25, 0.5] and data.pixel_std [0.26")
    assert "model.architecture's image encoder was trained with mean [0.48" in told
    task.model.padding = 1  # as RoBERTa's
    assert task.disagreements(fitting) == [
        "data.tokenizer pads with id 0, but model.architecture's text encoder takes id 1 for padding"
    ]
    assert task.disagreements(fitting._replace(padding=1)) == []


def test_the_processor_normalises_as_the_training_did(tokenizer_folder: Path) -> None:
    settings = Processor.prepared(str(tokenizer_folder), 48, pixels=PixelFacts(MIDDLE, WIDTH)).image_processor
    assert (tuple(settings.image_mean), tuple(settings.image_std)) == (MIDDLE, WIDTH)
    plain = Processor.prepared(str(tokenizer_folder), 48).image_processor
    assert (tuple(plain.image_mean), tuple(plain.image_std)) == (MEAN, STD)
