"""Pictures of strangers: formats, sizes, orientation, 16 bits, pipes; alike in converters, stream and pipelines."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import transforms
from datamodules.inspect.cell import open_scaled
from datamodules.inspect.verify import image_size
from datamodules.pictures import MOST_BYTES, MOST_PIXELS, open_raster, read_file, to_rgb, upright_size
from datamodules.prepare import Options, convert
from datamodules.prepare.engine import dataset_classes
from datamodules.prepare.images import Folder, prepare_image
from datamodules.shards import SampleError, ShardFolder
from datamodules.transforms import decode
from tests.datamodules.prepare.raw_files import records_of, write_json, write_lines
from vle_lightning.errors import UserError
from vle_lightning.inference.pictures import open_picture

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touched) print\n%%EOF\n"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """Write a PNG of one colour and any size in few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def lying_portrait() -> Image.Image:
    """A picture of 400 x 600, red above and blue below, stored on its side."""
    upright = np.zeros((600, 400, 3), dtype=np.uint8)
    upright[:300, :, 0] = upright[300:, :, 2] = 255
    stored = Image.fromarray(np.rot90(upright).copy())  # a quarter turn to the left
    stored.getexif()[0x0112] = 6  # turn it a quarter to the right
    return stored


def stored_bytes(kind: str = "JPEG") -> bytes:
    image = lying_portrait()
    return encoded(image, kind, exif=image.getexif())


def test_boxes_of_a_tiff_are_normalised_by_its_upright_size() -> None:
    assert upright_size(open_raster(stored_bytes("TIFF"))) == (400, 600)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("kind", "value"), [(3, b"\0\0"), (3, b"\0\x09"), (3, b"\0\x4d"), (2, b"ab"), (3, b"")])
def test_an_orientation_that_is_none_leaves_the_bytes_as_they_are(kind: int, value: bytes) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, kind, 1) + value + bytes(2) * bool(value)
    data = encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)
    assert prepare_image(data, "a", None, 90).data == data
    assert upright_size(open_raster(data)) == (30, 20)
    assert decode(data, turn=True).shape == (3, 20, 30)
    assert open_picture(data).size == (30, 20)


def test_an_opened_picture_is_turned_and_one_that_was_worked_on_is_not() -> None:
    with Image.open(io.BytesIO(stored_bytes())) as opened:
        assert open_picture(opened).size == (400, 600)
        assert open_picture(opened.rotate(90, expand=True)).size == (400, 600)
    with Image.open(io.BytesIO(EPS)) as vector, pytest.raises(UserError, match="is EPS, none of"):
        open_picture(vector)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_picture_alone_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision decodes all of a GIF: sixty of 2,000 x 2,000 in 235 kB took 2 GB."""
    shades = [Image.new("L", (50, 40), shade) for shade in (200, 10, 60)]
    data = encoded(shades[0], kind, save_all=True, append_images=shades[1:])
    monkeypatch.setattr(transforms, "decode_image", None)
    pixels = decode(data)
    assert pixels.shape == (3, 40, 50)
    assert pixels.float().mean().item() == pytest.approx(200, abs=2)


@pytest.mark.parametrize("quick", [True, False])
def test_inspection_turns_what_the_stream_turns(quick: bool) -> None:
    assert image_size(stored_bytes(), quick) == (600, 400)
    assert image_size(stored_bytes(), quick, turn=True) == (400, 600)
    assert open_scaled(stored_bytes(), 120).size == (120, 80)
    assert open_scaled(stored_bytes(), 120, turn=True).size == (120, 180)


def test_floats_are_shares_of_white() -> None:
    data = encoded(Image.fromarray(np.full((20, 30), 0.5, dtype=np.float32)), "TIFF")
    assert decode(prepare_image(data, "a", None, 95).data).float().mean().item() == pytest.approx(128, abs=1)
    assert np.asarray(open_picture(data)).mean() == pytest.approx(128)


def test_one_module_alone_opens_pictures() -> None:
    root = Path(__file__).parents[2]
    files = [file for package in ("datamodules", "vle_lightning") for file in (root / package).rglob("*.py")]
    opening = [file.name for file in files if "Image.open(" in file.read_text(encoding="utf-8")]
    assert opening == ["pictures.py"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [13_000, 30_000])
def test_a_picture_of_too_many_pixels_is_refused_everywhere_before_it_is_decoded(side: int) -> None:
    data = bomb(side)
    told = f"more than {MOST_PIXELS:,} pixels"
    with pytest.raises(SampleError, match=f"unreadable image: a.png: {told}"):
        prepare_image(data, "a.png", 100, 90)
    with pytest.raises(ValueError, match=told):
        decode(data)
    with pytest.raises(UserError, match=told):
        open_picture(data)


def test_formats_that_would_start_programs_are_refused_everywhere() -> None:
    with pytest.raises(SampleError, match="none of the formats JPEG"):
        prepare_image(EPS, "a.jpg", None, 90)
    with pytest.raises(ValueError, match="cannot identify"):
        decode(EPS)
    with pytest.raises(UserError, match="none of JPEG"):
        open_picture(EPS)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("longest_side", [None, 10])
def test_grey_of_16_bits_keeps_its_levels(kind: str, longest_side: int | None) -> None:
    data = encoded(Image.fromarray(np.full((20, 30), 0x7FFF, dtype=np.uint16)), kind)
    prepared = prepare_image(data, "a", longest_side, 90)
    assert decode(prepared.data).float().mean().item() == pytest.approx(127, abs=0.5)
    assert np.asarray(to_rgb(open_raster(data))).mean() == pytest.approx(127)
    assert np.asarray(open_picture(data)).mean() == pytest.approx(127)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("longest_side", [None, 300])
def test_pictures_are_turned_upright_when_they_are_prepared(kind: str, longest_side: int | None) -> None:
    pixels = decode(prepare_image(stored_bytes(kind), "a", longest_side, 95).data)
    assert pixels.shape[1] * 400 == pixels.shape[2] * 600
    top, bottom = pixels[:, : pixels.shape[1] // 3].float(), pixels[:, -pixels.shape[1] // 3 :].float()
    assert top[0].mean() > 240 > 15 > top[2].mean()
    assert bottom[2].mean() > 240 > 15 > bottom[0].mean()
    assert open_picture(stored_bytes(kind)).size == (400, 600)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_stream_turns_pictures_of_foreign_tars_whose_bytes_are_kept(kind: str) -> None:
    assert decode(stored_bytes("JPEG")).shape == (3, 400, 600)
    pixels = decode(stored_bytes(kind), turn=True)
    assert pixels.shape == (3, 600, 400)
    assert pixels[0, :280].min() > 240 > 15 > pixels[0, 320:].max()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_boxes_in_stored_pixels_are_turned_with_their_picture(kind: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(stored_bytes(kind))
    image = {"id": 1, "file_name": "a.jpg", "width": 600, "height": 400}
    red = {"id": 3, "image_id": 1, "category_id": 5, "bbox": [0, 0, 300, 400]}  # the left half of what is stored
    caption = {"id": 2, "image_id": 1, "caption": "a dog"}
    write_json(tmp_path / "annotations/captions_train.json", {"images": [image], "annotations": [caption]})
    classes = [{"id": 5, "name": "dog"}]
    written = {"images": [image], "annotations": [red], "categories": classes}
    write_json(tmp_path / "annotations/instances_train.json", written)
    convert("coco", tmp_path, tmp_path / "out", Options(splits=("train",)))
    folder = tmp_path / "out" / "coco" / "train"
    (record,) = records_of(folder).values()
    assert [list(box) for box in record.boxes] == [[0, 0, 1, 0.5]]
    pixels = decode(ShardFolder(folder).read(0, 0).image)
    assert pixels.shape == (3, 600, 400)
    assert pixels[0, :280].min() > 240 > 15 > pixels[0, 320:].max()


def test_every_set_with_boxes_says_in_which_pixels_they_are() -> None:
    told = {
        name: vars(kind)["stored_boxes"] for name, kind in dataset_classes().items() if "stored_boxes" in vars(kind)
    }
    assert told == {"coco": True, "image_folder": False, "vcr": True, "visual_genome": True}


def test_boxes_of_one_s_own_data_are_in_pixels_of_the_upright_picture(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(stored_bytes())
    row = {"image": "a.jpg", "caption": "a dog", "boxes": [[0, 0, 400, 300]], "names": ["dog"]}
    write_lines(tmp_path / "train.jsonl", [row])
    convert("image_folder", tmp_path, tmp_path / "out", Options(splits=("train",)))
    (record,) = records_of(tmp_path / "out" / "image_folder" / "train").values()
    assert [list(box) for box in record.boxes] == [[0, 0, 1, 0.5]]
    folder = ShardFolder(tmp_path / "out" / "image_folder" / "train")
    assert decode(folder.read(0, 0).image).shape == (3, 600, 400)


def test_a_jpeg_that_was_cut_short_is_no_picture() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)), "JPEG")
    assert decode(data).shape == (3, 90, 90)
    assert decode(data + b"\0" * 40).shape == (3, 90, 90)  # cameras append what they like
    assert decode(data + b"\1" * 3 * len(data)).shape == (3, 90, 90)  # and telephones films
    with pytest.raises(ValueError, match="cut short"):
        decode(data[: len(data) * 9 // 10])


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(SampleError, match="no regular file"):
        Folder(tmp_path).read("a.jpg")
    with pytest.raises(ValueError, match="no regular file"):
        read_file(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", "/dev/zero", tmp_path):
        with pytest.raises(UserError, match="no regular file"):
            open_picture(path)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    told = f"more than {MOST_BYTES:,}"
    with pytest.raises(ValueError, match=told):
        read_file(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=told):
        open_picture(tmp_path / "a.jpg")
    with pytest.raises(SampleError, match=told):
        Folder(tmp_path).read("a.jpg")


@pytest.mark.parametrize("name", ["../victim.jpg", "a/../../victim.jpg", "/etc/hostname", "a\0.jpg"])
def test_names_do_not_leave_the_raw_folder(name: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "a").mkdir(parents=True)
    (tmp_path / "victim.jpg").write_bytes(b"secret")
    with pytest.raises(SampleError, match="name outside the raw folder"):
        Folder(raw).read(name)


def test_links_lead_out_of_the_raw_folder_only_on_purpose(tmp_path: Path) -> None:
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    (raw / "images").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(b"there")
    (raw / "b.jpg").write_bytes(b"here")
    (raw / "images" / "a.jpg").symlink_to(elsewhere / "a.jpg")
    (raw / "images" / "b.jpg").symlink_to(raw / "b.jpg")
    (raw / "images" / "circle.jpg").symlink_to(raw / "images" / "circle.jpg")
    (raw / "linked").symlink_to(elsewhere)
    folder = Folder(raw / "images", raw)
    assert folder.read("b.jpg") == b"here"
    with pytest.raises(SampleError, match=r"link out of the raw folder: a.jpg; --follow-links"):
        folder.read("a.jpg")
    with pytest.raises(SampleError, match="unreadable image"):
        folder.read("circle.jpg")
    assert Folder(raw / "images", raw, follow_links=True).read("a.jpg") == b"there"
    assert Folder(raw / "linked", raw).read("a.jpg") == b"there"  # a folder as a whole is linked on purpose
    shutil.rmtree(elsewhere)
    assert folder.read("missing.jpg") is None
