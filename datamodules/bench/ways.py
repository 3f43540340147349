"""The ways from photos to pixels that are timed against each other, and the loader with workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from datamodules.dataset import MicroBatchDataset
from datamodules.loader import MicroBatchLoader
from datamodules.pictures import open_raster, to_rgb
from datamodules.pretrain import PretrainBuilder, PretrainSample
from datamodules.sampler import MicroBatch, MicroBatchSampler, TrainOrder
from datamodules.shards import ShardFolder, image_numbers
from datamodules.tokenizers import load_tokenizer
from datamodules.transforms import MEAN, STD, ImageTransform, View, decode, normalise
from vle_lightning.batch import PretrainBatch

PATCH = 16
MAX_LENGTH = 50  # tokens


def pillow_path(image_size: int) -> Callable[[bytes], Tensor]:
    """Return METER's and ViLT's way: Pillow opens, resizes the shorter side and crops the centre."""
    steps = Compose(
        [
            Resize(image_size, InterpolationMode.BICUBIC),
            CenterCrop(image_size),
            ToTensor(),
            Normalize(MEAN, STD),
        ]
    )

    def path(photo: bytes) -> Tensor:
        pixels: Tensor = steps(to_rgb(open_raster(photo)))
        return pixels

    return path


def centre(width: int, height: int) -> View:
    """Return the square in the centre, which is what the Pillow path sees."""
    side = min(width, height)
    x0, y0 = (width - side) // 2, (height - side) // 2
    return View(width, height, x0, y0, x0 + side, y0 + side)


def pillow_batch(photos: Sequence[bytes], image_size: int) -> Tensor:
    """Take photos that are in memory through the Pillow path, (B, 3, S, S)."""
    path = pillow_path(image_size)
    return torch.stack([path(photo) for photo in photos])


def decode_batch(photos: Sequence[bytes]) -> None:
    """Decode photos that are in memory, and do nothing else."""
    for photo in photos:
        decode_image(torch.frombuffer(bytearray(photo), dtype=torch.uint8), ImageReadMode.RGB)


def stream_batch(folder: ShardFolder, rows: Iterable[int], transform: ImageTransform) -> Tensor:
    """Take photos from their shard through the stream's image path, (B, 3, S, S)."""
    pixels = []
    for row in rows:
        image = decode(folder.read(0, row).image)
        pixels.append(transform.apply(image, centre(image.shape[2], image.shape[1])))
    return normalise(pixels)


Records = MicroBatchDataset[PretrainSample, PretrainBatch]


def whole_records(folder: ShardFolder, tokenizer: str, image_size: int) -> Records:
    """Return the pre-training data set: crop, flip, augmentation, tokens, masks, collation."""
    side = image_size // PATCH
    builder = PretrainBuilder(load_tokenizer(tokenizer), MAX_LENGTH, (side, side), {})
    transform = ImageTransform(image_size, crop_scale=(0.5, 1.0), flip=True, augment_ops=2)
    return MicroBatchDataset([folder], transform, builder, seed=0)


def micro_batch(rows: Sequence[int]) -> MicroBatch:
    """Return the micro-batch of these rows of the first shard."""
    return MicroBatch(0, 0, tuple((0, 0, row) for row in rows), len(rows))


def best_of_alternating(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Let the ways take turns and return the best seconds of each: a busy machine meets all of them alike.

    Seconds are the processor's, of all threads: what others run on the same cores does not count, and a way that
    used a second core would gain nothing. The photos are in memory or in the page cache, so that nothing waits.
    """
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, work in ways.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


def loader_of(records: Records, batch_size: int, workers: int) -> MicroBatchLoader[PretrainBatch]:
    """Return the training loader over all samples."""
    folders = records.folders
    sizes = [folder.shard_sizes for folder in folders]
    order = TrainOrder(sizes, [1.0], 0, batch_size, images_of=lambda samples: image_numbers(folders, samples))
    return MicroBatchLoader(records, MicroBatchSampler(order, batch_size), workers)


def delivered(loader: MicroBatchLoader[PretrainBatch], step_seconds: float = 0.0) -> tuple[float, float]:
    """Go through an epoch as a device would that takes ``step_seconds`` for a batch and leaves the cores alone.

    The first batch, before which the workers have had no time, is not counted.

    Returns:
        Samples/s, and the share of the time spent waiting for data.
    """
    batches = iter(loader)
    next(batches)
    start = before = time.perf_counter()
    samples, waited = 0, 0.0
    for batch in batches:
        waited += time.perf_counter() - before
        samples += len(batch)
        time.sleep(step_seconds)
        before = time.perf_counter()
    seconds = before - start
    return samples / seconds, waited / seconds
