"""From the samples of a micro-batch to a batch: read, decode, transform, collate."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.cache import StoreError
from datamodules.pictures import DamagedError
from datamodules.records import Kind, Record
from datamodules.sampler import MicroBatch
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.texts import SIDES
from datamodules.transforms import ImageTransform, View, decode
from vle_lightning.batch import Batch, Skip

SampleT = TypeVar("SampleT")
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


class UnusableError(StoreError, ValueError):
    """Nothing of a shard can be used; the message says why."""


@dataclass(frozen=True)
class BatchHead:
    """What every kind of batch has; ``**vars(head)`` are its fields."""

    sample_ids: tuple[str, ...]
    valid: Tensor  # (B,) bool
    step: int
    number: int
    skipped: tuple[Skip, ...]
    pixel_values: Tensor  # (B, 3, H, W) float; (B, 2, 3, H, W) where samples are about two images
    planned: int = 0  # rows of the micro-batch if all its samples can be used; 0: as many as it has


class BatchBuilder(ABC, Generic[SampleT, BatchT_co]):
    """What is particular to a task: its part of a record, and its batch."""

    kind: Kind  # of the shard folders that it reads
    paired: ClassVar[bool] = False  # its samples are about two images

    @abstractmethod
    def words(self, raw: RawSample) -> Iterable[str]:
        """Return all texts of a sample: one that says left or right forbids mirroring the picture."""

    @abstractmethod
    def parse(self, raw: RawSample, view: View) -> SampleT:
        """Take a sample out of its record, as seen in ``view``.

        Raises:
            SampleError: the sample cannot be used.
        """

    @abstractmethod
    def collate(self, head: BatchHead, samples: Sequence[SampleT], rng: np.random.Generator) -> BatchT_co:
        """Make a batch of B samples; the first random numbers after those of the images are drawn here."""


class MicroBatchDataset(Dataset[BatchT_co], Generic[SampleT, BatchT_co]):
    """Makes a batch for each MicroBatch; all randomness is keyed by the seed and its step and number."""

    def __init__(
        self,
        folders: Sequence[ShardFolder],
        transform: ImageTransform,
        builder: BatchBuilder[SampleT, BatchT_co],
        seed: int,
    ) -> None:
        self.folders, self.transform, self.builder, self.seed = folders, transform, builder, seed

    def __getitem__(self, which: MicroBatch) -> BatchT_co:
        """Read and collate a micro-batch; samples that cannot be used are left out and listed in ``skipped``.

        Where none can be used, a neighbour stands there as a filler, which reaches no loss, score or prediction.

        Raises:
            UnusableError: no neighbour can be used either.
        """
        rng = np.random.default_rng((self.seed, which.step, which.number))
        pixels: list[Tensor] = []
        samples: list[SampleT] = []
        names: list[str] = []
        valid: list[bool] = []
        skipped: list[Skip] = []
        for row, place in enumerate(which.samples):
            try:
                raw, image, sample = self._load(place, rng)
            except SampleError as error:
                skipped.append(Skip(error.kind, error.where))
                continue
            names.append(raw.sample_id)
            pixels.append(image)
            samples.append(sample)
            valid.append(row < which.valid)
        if not samples:
            raw, image, sample = self._filler(which, skipped, rng)
            names, pixels, samples, valid = [raw.sample_id], [image], [sample], [False]
        images = self.stack(pixels)
        planned = len(which.samples)
        head = BatchHead(tuple(names), torch.tensor(valid), which.step, which.number, tuple(skipped), images, planned)
        return self.finish(head, samples, rng)

    def stack(self, pixels: Sequence[Tensor]) -> Tensor:
        """Make one tensor of the images of a batch, normalised."""
        return self.transform.normalise(pixels)

    def finish(self, head: BatchHead, samples: Sequence[SampleT], rng: np.random.Generator) -> BatchT_co:
        """Make the batch of what was read; a subclass may read more."""
        return self.builder.collate(head, samples, rng)

    def _filler(
        self, which: MicroBatch, skipped: Sequence[Skip], rng: np.random.Generator
    ) -> tuple[RawSample, Tensor, SampleT]:
        source, shard, row = which.samples[0]
        size = self.folders[source].shard_sizes[shard]
        for neighbour in range(row + 1, row + size):
            try:
                return self._load((source, shard, neighbour % size), rng)
            except SampleError:
                continue
        told = f"{skipped[0].kind} ({skipped[0].where}), and {len(skipped) - 1} more" if skipped else "nothing is there"
        raise UnusableError(
            f"step {which.step}, micro-batch {which.number}: none of its samples can be used, nor any other of its "
            f"shard: {told}. Make the shards again, or leave their source out of data.sources"
        )

    def _load(self, place: tuple[int, int, int], rng: np.random.Generator) -> tuple[RawSample, Tensor, SampleT]:
        raw, image, turn = self.read(place)
        may_flip = self.transform.flip and not any(map(SIDES.search, self.builder.words(raw)))
        view = self.transform.draw(rng, image.shape[2], image.shape[1], may_flip=may_flip)
        sample = self.builder.parse(raw, view)
        seen = self.transform.apply(image, view)
        if self.builder.paired:
            if raw.right is None:
                raise SampleError("pair with one picture", f"{raw.where} ({raw.sample_id})")
            right = _decoded(raw, raw.right, turn)
            own = self.transform.draw(rng, right.shape[2], right.shape[1], may_flip=False)
            seen = torch.stack([seen, self.transform.apply(right, replace(own, flipped=view.flipped))])
        return raw, seen, sample

    def read(self, place: tuple[int, int, int]) -> tuple[RawSample, Tensor, bool]:
        """Read a sample and decode its picture (3, H, W); say whether pictures of its source are turned upright.

        Raises:
            SampleError: it cannot be read or decoded.
        """
        source, shard, row = place
        raw = self.folders[source].read(shard, row)
        turn = self.folders[source].manifest.layout == "captions"  # ours were turned when they were prepared
        return raw, _decoded(raw, raw.image, turn), turn


def _decoded(raw: RawSample, data: bytes, turn: bool) -> Tensor:
    try:
        return decode(data, turn)
    except DamagedError as error:
        raise SampleError("damaged image", f"{raw.where} ({raw.sample_id}): {error}") from error
    except ValueError as error:
        raise SampleError("unreadable image", f"{raw.where} ({raw.sample_id}): {error}") from error


def record_boxes(record: Record, where: str) -> NDArray[np.float64]:
    """Return a record's boxes (R, 4).

    Raises:
        SampleError: a box is outside the image or of zero area, or there is not one name per box.
    """
    if len(record.names) != len(record.boxes):
        raise SampleError("bad box", f"{where}: {len(record.boxes)} boxes, but {len(record.names)} names")
    boxes = np.array(record.boxes, dtype=np.float64).reshape(-1, 4)
    inside = ((boxes >= 0) & (boxes <= 1)).all(1)  # False for NaN as well
    good = inside & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not good.all():
        first = int(np.argmin(good))
        raise SampleError(
            "bad box", f"{where}: box {first} is {boxes[first].tolist()}, outside the image or of zero area"
        )
    return boxes


def row_keys(*names: Sequence[str]) -> Tensor:
    """Return numbers (B, N) int64 that stand for N names of each of B rows: equal where the names are."""
    return torch.tensor([[_key(name) for name in row] for row in zip(*names, strict=True)], dtype=torch.int64)


def _key(name: str) -> int:
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # 63 bits: two of a million names are alike once in ten million sets


def pad(rows: Sequence[NDArray[np.generic]], fill: float, dtype: torch.dtype) -> Tensor:
    """Stack arrays (R_i, ...) to (B, R, ...), R at least 1, with ``fill`` behind the short ones."""
    longest = max(1, *(len(row) for row in rows))
    padded = np.full((len(rows), longest, *rows[0].shape[1:]), fill, dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded).to(dtype)
