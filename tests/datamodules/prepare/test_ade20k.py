"""ADE20K's official layout: masks beside images, their classes, and what cannot be used."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.masks import decode_mask
from datamodules.orientation import TAG
from datamodules.prepare import Options, convert
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.raw_files import picture, skipped

OBJECTS = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t11\t1\t1\twall\n2\t0.10\t6\t1\t1\tbuilding, edifice\n"
TRAIN = Options(splits=("train",))
MASK = np.arange(800, dtype=np.uint8).reshape(20, 40) % 3  # of a picture of 40 x 20


def png(mask: NDArray[np.uint8], mode: str = "L") -> bytes:
    """Encode a mask."""
    file = io.BytesIO()
    Image.fromarray(mask).convert(mode).save(file, "PNG")
    return file.getvalue()


def write_ade(src: Path, split: str = "training", **pairs: tuple[bytes | None, bytes | None]) -> None:
    """Write images and masks by their common name, and the list of classes."""
    (src / "objectInfo150.txt").write_text(OBJECTS)
    for kind, place, ending in (("images", 0, "jpg"), ("annotations", 1, "png")):
        (src / kind / split).mkdir(parents=True, exist_ok=True)
        for name, files in pairs.items():
            data = files[place]
            if data is not None:
                (src / kind / split / f"{name}.{ending}").write_bytes(data)


def masks_of(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the masks of a shard folder by image id."""
    shards = ShardFolder(folder)
    samples = [shards.read(shard, row) for shard, rows in enumerate(shards.shard_sizes) for row in range(rows)]
    return {s.record.image_id: decode_mask(s.right or b"").numpy() for s in samples}


def test_masks_come_as_they_are_and_classes_in_order(tmp_path: Path) -> None:
    write_ade(tmp_path, "training", a=(picture(0), png(MASK)), b=(picture(1), png(MASK[::-1].copy())))
    write_ade(tmp_path, "validation", c=(picture(2), png(MASK)))
    convert("ade20k", tmp_path, tmp_path / "out", Options(splits=("train", "val")))
    out = tmp_path / "out" / "ade20k"
    assert json.loads((out / "classes.json").read_text()) == ["wall", "building, edifice"]
    found = masks_of(out / "train")
    assert set(found) == {"ade20k/a", "ade20k/b"}
    np.testing.assert_array_equal(found["ade20k/a"], MASK)
    np.testing.assert_array_equal(found["ade20k/b"], MASK[::-1])
    manifest = ShardFolder(out / "val").manifest
    assert (manifest.kind, manifest.images, manifest.samples, manifest.skipped) == ("masks", 1, 1, {})


def test_a_mask_is_scaled_with_its_image_without_new_numbers(tmp_path: Path) -> None:
    halves = np.repeat(np.array([1, 2], dtype=np.uint8), 20)[None].repeat(20, 0)
    write_ade(tmp_path, a=(picture(0), png(halves)))
    convert("ade20k", tmp_path, tmp_path / "out", Options(splits=("train",), longest_side=20))
    (mask,) = masks_of(tmp_path / "out" / "ade20k" / "train").values()
    np.testing.assert_array_equal(mask, halves[:10, 10:30])


def test_a_mask_is_turned_with_its_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[TAG] = 6  # stored lying, to be turned by a quarter
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(0, (20, 40)))).save(file, "JPEG", exif=exif)
    corner = np.ones((40, 20), dtype=np.uint8)
    corner[0, 0] = 2

    write_ade(tmp_path, a=(file.getvalue(), png(corner.T.copy())))
    with pytest.raises(ValueError, match="1 x mask of another size"):
        convert("ade20k", tmp_path, tmp_path / "out", TRAIN)
    write_ade(tmp_path, a=(file.getvalue(), png(corner)))
    convert("ade20k", tmp_path, tmp_path / "out", TRAIN)
    (mask,) = masks_of(tmp_path / "out" / "ade20k" / "train").values()
    assert mask.shape == (20, 40)
    assert np.argwhere(mask == 2).tolist() == [[0, 39]]


def test_defects_are_counted(tmp_path: Path) -> None:
    write_ade(
        tmp_path,
        good=(picture(0), png(MASK)),
        lone=(picture(1), None),
        bare=(None, png(MASK)),
        large=(picture(2), png(MASK.repeat(2, 0))),
        third=(picture(3), png(MASK + 1)),
        colour=(picture(4), png(MASK, "RGB")),
        broken=(picture(5), png(MASK)[:60]),
        blank=(picture(6)[:90], png(MASK)),
    )
    convert("ade20k", tmp_path, tmp_path / "out", TRAIN)
    assert set(masks_of(tmp_path / "out" / "ade20k" / "train")) == {"ade20k/good"}
    assert skipped(tmp_path / "out" / "ade20k" / "train") == {
        "image without a mask": 1,
        "mask without an image": 1,
        "mask of another size": 1,
        "unknown class in the mask": 1,
        "unreadable mask": 2,
        "unreadable image": 1,
    }


@pytest.mark.parametrize(
    ("objects", "told"),
    [
        ("Idx\tName\n1\twall\n3\tsky\n", r"row 2 is \['3', 'sky'\]"),
        ("Idx,Name\n1,wall\n", r"row 1 is \['1,wall'\]"),
        ("Idx\tName\n", "0 names"),
        ("Idx\tName\n1\twall\n2\twall\n", "'wall' occurs twice"),
    ],
)
def test_another_list_of_classes_is_refused(objects: str, told: str, tmp_path: Path) -> None:
    write_ade(tmp_path, a=(picture(0), png(MASK)))
    (tmp_path / "objectInfo150.txt").write_text(objects)
    with pytest.raises(ValueError, match=told):
        convert("ade20k", tmp_path, tmp_path / "out", TRAIN)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--src must be ADEChallengeData2016, unpacked"):
        convert("ade20k", tmp_path, tmp_path / "out", TRAIN)
