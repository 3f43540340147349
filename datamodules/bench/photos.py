"""The photos of the bench: drawn here or given, and written as a shard folder with captions."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.manifest import NAME as MANIFEST
from datamodules.records import Record, Text
from datamodules.shards import ShardFolder
from datamodules.writer import ShardFolderWriter

WIDTH, HEIGHT, QUALITY = 500, 375, 90  # what photo sites hand out, such as Flickr in its middle size
SLOPE = 1.5  # amplitudes fall with frequency to this power: a little steeper than 1/f, as lenses blur; 53 kB a photo
DEVIATION, CHROMA = 50, 0.35  # of the luminance in levels; of the colours, as a share of it
SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png"}
CAPTIONS = 5  # of a photo, as in COCO and Flickr8k
COPIES = 8  # of each photo: an epoch has to be longer than what the workers read ahead
WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "dog",
    "child",
    "woman",
    "man",
    "ball",
    "horse",
    "street",
    "beach",
    "runs",
    "sits",
    "plays",
    "near",
    "on",
    "with",
]


def draw_photo(number: int) -> bytes:
    """Draw a JPEG of 500 x 375 pixels that decodes like a photo: noise with a photo's spectrum.

    Equal numbers give equal photos. Flat pictures decode faster than photos, white noise slower.
    """
    rng = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf  # the mean is set below
    noise = np.fft.rfft2(rng.standard_normal((3, HEIGHT, WIDTH)))
    planes = np.fft.irfft2(noise / frequency**SLOPE, (HEIGHT, WIDTH))
    light, warm, cold = planes / planes.std((1, 2), keepdims=True)
    colours = [light + CHROMA * warm, light - CHROMA / 2 * (warm + cold), light + CHROMA * cold]
    pixels = (128 + DEVIATION * np.stack(colours, axis=-1)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=QUALITY)
    return stream.getvalue()


def read_photos(place: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the photos of a folder, a tar or a shard folder, encoded, each with its extension.

    Raises:
        FileNotFoundError: there is no such place.
        ValueError: the file is no tar.
    """
    if (place / MANIFEST).is_file():
        yield from _of_shards(ShardFolder(place))
    elif place.is_dir():
        for path in sorted(place.rglob("*")):
            if (suffix := path.suffix.lower()) in SUFFIXES:
                yield path.read_bytes(), SUFFIXES[suffix]
    elif place.is_file():
        yield from _of_tar(place)
    else:
        raise FileNotFoundError(f"--photos: {place} not found; give a folder of images, a tar or a shard folder")


def _of_tar(place: Path) -> Iterator[tuple[bytes, str]]:
    try:
        with tarfile.open(place) as tar:
            for member in tar:
                extension = SUFFIXES.get(Path(member.name).suffix.lower())
                if extension and (file := tar.extractfile(member)):
                    yield file.read(), extension
    except tarfile.TarError as error:
        raise ValueError(f"--photos: {place} is not a readable tar; give a tar, a folder or a shard folder") from error


def _of_shards(folder: ShardFolder) -> Iterator[tuple[bytes, str]]:
    before = ""
    for shard, size in enumerate(folder.shard_sizes):
        for row in range(size):
            raw = folder.read(shard, row)
            if raw.record.image_id != before:
                yield raw.image, "png" if raw.image.startswith(b"\x89PNG") else "jpg"
            before = raw.record.image_id


def take_photos(place: Path | None, count: int) -> list[tuple[bytes, str]]:
    """Return ``count`` photos of a place with their extensions, or as many drawn ones.

    Raises:
        ValueError: the place holds less.
    """
    if place is None:
        return [(draw_photo(number), "jpg") for number in range(count)]
    photos = list(itertools.islice(read_photos(place), count))
    if len(photos) < count:
        raise ValueError(
            f"--photos: {place} holds {len(photos)} JPEGs and PNGs; give more, or set --count {len(photos)}"
        )
    return photos


def captions(number: int) -> list[str]:
    """Return the captions of a photo, 8 to 16 words each."""
    rng = np.random.default_rng((number, len(WORDS)))
    return [" ".join(rng.choice(WORDS, rng.integers(8, 17))) for _ in range(CAPTIONS)]


def write_photos(photos: list[tuple[bytes, str]], folder: Path) -> list[str]:
    """Write photos as a shard folder of captions, `COPIES` times; photo i's first sample is row ``CAPTIONS * i``.

    Returns:
        All captions.
    """
    texts = []
    samples = len(photos) * COPIES * CAPTIONS
    with ShardFolderWriter(folder, folder.parent.name, folder.name, "texts", samples_per_shard=samples) as writer:
        for number, (photo, extension) in enumerate(photos * COPIES):
            items = tuple(Text(str(i), text, None) for i, text in enumerate(captions(number)))
            writer.write(f"{number:06d}", photo, extension, Record(f"bench/{number}", texts=items))
            texts += [item.text for item in items]
    return texts
