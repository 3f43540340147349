"""Codebooks of patches: a number for each patch of an image, which masked image modelling predicts.

``python -m datamodules.codebook data/toy/shards/coco/train --out data/toy/codebook.safetensors --codes 64
--patch-size 8 --image-size 48`` makes one of a shard folder's images by k-means. The file holds ``centres``
(K, 3 * p * p) float32, the colours of a patch in [0, 1] each (red, green and blue plane, row by row), and their patch
size.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional as F

from datamodules.shards import SampleError, ShardFolder
from datamodules.transforms import MEAN, STD, Framing, ImageTransform, decode
from vle_lightning.batch import IGNORED, Colours
from vle_lightning.entry import enter

SUFFIX = ".safetensors"
MAKE = "python -m datamodules.codebook"
IMAGES, ROUNDS = 1000, 30  # ours: images whose patches are clustered; rounds of k-means at most
Levels = NDArray[np.uint8]


class Codebook(Protocol):
    """What gives patches their codes."""

    codes: int  # K

    def encode(self, pixels: Tensor) -> Tensor:
        """Return codes (B, P) int64 in [0, K), patches row by row, of normalised images (B, 3, H, W)."""
        ...


class PatchCodebook:
    """The nearest of K centres, by one matrix product over the patches."""

    def __init__(self, centres: Tensor, patch_size: int, mean: Colours = MEAN, std: Colours = STD) -> None:
        """Fold the normalisation of pixels into the centres, so that codes do not depend on it.

        Args:
            centres: (K, 3 * p * p) float, colours in [0, 1].
            patch_size: p in pixels.
            mean: that the pixels are normalised by.
            std: likewise.
        """
        self.codes, self.patch_size = len(centres), patch_size
        means, stds = (torch.tensor(colours).repeat_interleave(patch_size**2) for colours in (mean, std))
        self._weight = centres * stds
        self._bias = centres @ means - centres.square().sum(1) / 2

    @classmethod
    def load(cls, path: Path, mean: Colours = MEAN, std: Colours = STD) -> PatchCodebook:
        """Read a file.

        Raises:
            FileNotFoundError: there is none; says how to make it.
            ValueError: it is not a codebook.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"data.codebook: {path} not found; {MAKE} data/toy/shards/coco/train --out {path} --codes 64 "
                "--patch-size 8 --image-size 48 makes that of the toy world (of other data: their shards and sizes)"
            )
        try:
            with safe_open(path, "pt") as file:
                centres, patch_size = file.get_tensor("centres").float(), int(file.metadata()["patch_size"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"data.codebook: {path} is not a codebook that {MAKE} has made: {error}") from error
        if centres.ndim != 2 or centres.shape[1] != 3 * patch_size**2:
            raise ValueError(f"data.codebook: {path} has centres {tuple(centres.shape)} for patches of {patch_size} px")
        if not centres.isfinite().all():
            raise ValueError(f"data.codebook: {path} is damaged: some centres are not finite (NaN or infinity)")
        return cls(centres, patch_size, mean, std)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the number of the nearest centre of each patch: (B, P) int64, of images (B, 3, H, W).

        |x - c|^2 is least where x.c - |c|^2 / 2 is greatest, and x is std * pixels + mean.
        """
        patches = F.unfold(pixels, self.patch_size, stride=self.patch_size)  # (B, 3pp, P)
        return (self._weight @ patches + self._bias[:, None]).argmax(1)


def open_codebook(source: str, mean: Colours = MEAN, std: Colours = STD) -> Codebook:
    """Open a codebook.

    Args:
        source: a file, or ``module.Class`` of anything that is a `Codebook` and made without arguments.
        mean: that pixels are normalised by.
        std: likewise.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be opened.
    """
    if source.endswith(SUFFIX) or "/" in source or Path(source).is_file():
        return PatchCodebook.load(Path(source), mean, std)
    module, _, name = source.rpartition(".")
    try:
        made: Codebook = getattr(importlib.import_module(module), name)()
    except Exception as error:  # someone's own module may raise anything
        raise ValueError(
            f"data.codebook: {source} is neither a file of {MAKE} nor a module.Class to be made: {error}"
        ) from error
    if type(getattr(made, "codes", None)) is not int or not callable(getattr(made, "encode", None)):
        raise ValueError(f"data.codebook: {source} must have encode(pixels) and a number of codes")
    return made


def patch_codes(codebook: Codebook | None, pixel_values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the codes (B, P) of all patches of normalised images (B, 3, H, W); IGNORED without a codebook.

    Raises:
        ValueError: the codebook has other codes than it says, or another grid of patches.
    """
    shape = (len(pixel_values), grid[0] * grid[1])
    if codebook is None:
        return torch.full(shape, IGNORED)
    codes = codebook.encode(pixel_values)
    if tuple(codes.shape) != shape or not 0 <= int(codes.min()) <= int(codes.max()) < codebook.codes:
        raise ValueError(
            f"data.codebook gave codes {tuple(codes.shape)} from {int(codes.min())} to {int(codes.max())}; it must "
            f"give {shape}, one for each patch, below its number of codes, {codebook.codes}"
        )
    return codes.long()


def check_patch_size(codebook: Codebook | None, source: str | None, patch_size: int) -> None:
    """Raise ValueError where a codebook is of other patches than the model's; one of somebody else's need not say."""
    own = getattr(codebook, "patch_size", None)
    if own not in (None, patch_size):
        raise ValueError(f"data.codebook {source} is of patches of {own} px, but data.patch_size is {patch_size}")


def patches_of(images: Sequence[Tensor], patch_size: int) -> Levels:
    """Cut images (3, S, S) uint8 into patches (N, 3 * p * p)."""
    cut = F.unfold(torch.stack(list(images)).float(), patch_size, stride=patch_size)
    levels: Levels = cut.transpose(1, 2).flatten(0, 1).byte().numpy()
    return levels


def cluster(patches: Levels, codes: int, seed: int = 0) -> Levels:
    """Find K centres by k-means from a k-means++ start.

    Patches and centres are whole levels, so that every sum is exact: the centres depend on no library and no number of
    threads.

    Args:
        patches: (N, D) levels 0 to 255.
        codes: K.
        seed: of the start.

    Returns:
        (K, D) levels.

    Raises:
        ValueError: there are fewer different patches than codes.
    """
    rng, points = np.random.default_rng(seed), patches.astype(np.float64)
    lengths = np.square(points).sum(1)
    chosen = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < codes:
        last = points[chosen[-1]]
        nearest = np.minimum(nearest, lengths - 2 * (points @ last) + last @ last)
        if not nearest.any():
            raise ValueError(f"--codes is {codes}, but there are only {len(chosen)} different patches; give fewer")
        chosen.append(int(rng.choice(len(points), p=nearest / nearest.sum())))
    centres, owners = points[chosen], np.full(len(points), -1)
    for _ in range(ROUNDS):
        now = (points @ centres.T - np.square(centres).sum(1) / 2).argmax(1)
        if (now == owners).all():
            break
        owners = now
        for code in np.unique(owners):  # one without patches stays where it is
            centres[code] = np.rint(points[owners == code].mean(0))
    found: Levels = centres.astype(np.uint8)
    return found


def write_codebook(file: Path, centres: Levels, patch_size: int) -> None:
    """Write centres (K, 3 * p * p), levels 0 to 255."""
    colours = (centres / 255).astype(np.float32)
    save_file({"centres": colours}, file, metadata={"patch_size": str(patch_size)})


def first_images(folder: ShardFolder, transform: ImageTransform, most: int) -> list[Tensor]:
    """Return the first images of a shard folder, each once, as evaluation sees them: (3, S, S) uint8.

    Raises:
        SampleError: one cannot be read.
        ValueError: one is no image.
    """
    images: list[Tensor] = []
    for shard, size in enumerate(folder.shard_sizes):
        _, rows = np.unique(folder.images(shard, np.arange(size)), return_index=True)
        for row in np.sort(rows)[: most - len(images)].tolist():
            image = decode(folder.read(shard, row).image, folder.manifest.layout == "captions")
            height, width = image.shape[1:]
            view = transform.draw(np.random.default_rng(0), width, height, may_flip=False)
            images.append(transform.apply(image, view))
    return images


def make_codebook(
    shards: Path,
    out: Path,
    codes: int,
    patch_size: int,
    image_size: int,
    framing: Framing = "squeeze",
    images: int = IMAGES,
    seed: int = 0,
) -> None:
    """Cluster the patches of a shard folder's first images, and write their centres.

    Raises:
        FileNotFoundError: there are no shards.
        SampleError: an image cannot be read.
        ValueError: a size is out of range, or the patches are too few.
    """
    for name, value in {"codes": codes, "patch-size": patch_size, "images": images}.items():
        if value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    if image_size % patch_size:
        raise ValueError(f"--image-size {image_size} is not a multiple of --patch-size {patch_size}")
    found = first_images(ShardFolder(shards), ImageTransform(image_size, framing=framing), images)
    write_codebook(out, cluster(patches_of(found, patch_size), codes, seed), patch_size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 where the user has to fix something."""
    parser = argparse.ArgumentParser(prog=MAKE, description="Make a codebook of patches by k-means.")
    parser.add_argument("shards", type=Path, help="a shard folder, such as data/toy/shards/coco/train")
    parser.add_argument("--out", type=Path, required=True, help=f"the file to write, *{SUFFIX}")
    parser.add_argument("--codes", type=int, required=True, help="how many codes")
    parser.add_argument("--patch-size", type=int, required=True, help="in pixels, the image encoder's")
    parser.add_argument("--image-size", type=int, required=True, help="in pixels, data.image_size of the experiment")
    parser.add_argument("--framing", choices=get_args(Framing), default="squeeze", help="as data.framing")
    parser.add_argument("--images", type=int, default=IMAGES, help="so many images at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first centres (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        make_codebook(**vars(options))
    except (ValueError, OSError, SampleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.codes} codes")
    return 0


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.codebook", main))
