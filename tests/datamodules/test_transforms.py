"""Views: pixels are cut, mirrored and resized, and boxes go along."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from datamodules.transforms import MEAN, STD, ImageTransform, View, cut, decode, normalise, resize


def encoded(pixels: np.ndarray, kind: str = "png", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, kind)
    return stream.getvalue()


NOISE = np.random.default_rng(0).integers(256, size=(30, 40, 3), dtype=np.uint8)


def test_decoding_gives_the_pixels() -> None:
    assert np.array_equal(decode(encoded(NOISE)).permute(1, 2, 0), NOISE)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16"])
def test_every_picture_becomes_rgb_bytes(mode: str) -> None:
    grey = NOISE[..., 0]
    data = encoded(grey.astype(np.uint16) * 257) if mode == "I;16" else encoded(grey, "png", mode)
    image = decode(data)
    assert image.shape == (3, 30, 40)
    assert image.dtype == torch.uint8
    if mode != "1":
        assert np.array_equal(image[0], grey)


def test_cmyk_jpegs_are_read() -> None:
    flat = np.full((16, 16, 3), (200, 30, 30), dtype=np.uint8)
    image = decode(encoded(flat, "jpeg", "CMYK")).float().mean((1, 2))
    assert torch.allclose(image, torch.tensor([200.0, 30.0, 30.0]), atol=6)


@pytest.mark.parametrize("data", [b"", b"no image", encoded(NOISE)[:200], encoded(NOISE, "jpeg")[:300]])
def test_unreadable_pictures_are_errors(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(data)


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    image = torch.from_numpy(NOISE[:, :30]).permute(2, 0, 1)
    transform = ImageTransform(30)
    view = transform.draw(np.random.default_rng(0), 30, 30, may_flip=True)
    assert view.is_whole
    assert torch.equal(transform.apply(image, view), image)


def test_resizing_is_antialiased_bicubic() -> None:
    smooth = np.add.outer(np.arange(90), np.arange(120))[..., None].repeat(3, -1).astype(np.uint8)
    transform = ImageTransform(24)
    seen = transform.apply(torch.from_numpy(smooth).permute(2, 0, 1), View(120, 90, 0, 0, 120, 90))
    expected = np.asarray(Image.fromarray(smooth).resize((24, 24), Image.Resampling.BICUBIC))
    assert np.abs(seen.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("by_pixel", [True, False])
@pytest.mark.parametrize("shape", [(30, 40), (7, 90), (1, 1)])
def test_resizing_is_torchvisions_in_any_layout(shape: tuple[int, int], by_pixel: bool) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8))
    image = pixels.permute(2, 0, 1) if by_pixel else pixels.permute(2, 0, 1).contiguous()
    expected = F.resize_image(image, [24, 24], F.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize(image, 24), expected)


@pytest.mark.parametrize("by_pixel", [True, False])
def test_a_cut_is_the_part_of_the_picture(by_pixel: bool) -> None:
    image = torch.from_numpy(NOISE).permute(2, 0, 1)
    image = image if by_pixel else image.contiguous()
    assert torch.equal(cut(image, View(40, 30, 5, 3, 22, 29)), image[:, 3:29, 5:22])
    assert torch.equal(cut(image, View(40, 30, 39, 29, 40, 30)), image[:, 29:, 39:])


def test_without_options_nothing_is_drawn() -> None:
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    view = ImageTransform(24).draw(rng, 40, 30, may_flip=True)
    assert view == View(40, 30, 0, 0, 40, 30)
    assert rng.bit_generator.state == other.bit_generator.state


def test_a_list_of_pictures_is_normalised_as_a_batch_is() -> None:
    whole = torch.from_numpy(NOISE).permute(2, 0, 1)
    pictures = [whole, whole.flip(-1), whole.contiguous()]
    batch = normalise(pictures)
    assert batch.is_contiguous()
    assert torch.equal(batch, normalise(torch.stack(pictures)))
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    expected = (torch.stack(pictures).double() / 255 - mean) / std
    torch.testing.assert_close(batch.double(), expected, rtol=0, atol=5e-7)


def test_normalisation_is_clips() -> None:
    black, white = normalise(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 2))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    torch.testing.assert_close(black[:, 0, 0], -mean / std)
    torch.testing.assert_close(white[:, 1, 1], (1 - mean) / std)


def test_boxes_follow_a_crop_worked_by_hand() -> None:
    view = View(100, 50, 20, 10, 60, 50)  # 40 x 40 pixels
    boxes = np.array([[0.2, 0.2, 0.4, 0.6], [0.1, 0.2, 0.4, 0.4], [0.0, 0.0, 0.3, 0.3], [0.7, 0.0, 0.9, 1.0]])
    moved, kept = view.move(boxes)
    # pixels (20, 10, 40, 30); (10, 10, 40, 20) with two thirds inside; (0, 0, 30, 15) with a ninth; outside
    np.testing.assert_allclose(moved[:2], [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.25]], atol=1e-6)
    assert kept.tolist() == [True, True, False, False]


def test_a_mirror_swaps_the_sides() -> None:
    moved, kept = View(10, 10, 0, 0, 10, 10, flipped=True).move(np.array([[0.1, 0.2, 0.4, 0.5]]))
    np.testing.assert_allclose(moved, [[0.6, 0.2, 0.9, 0.5]], atol=1e-6)
    assert kept.all()


def test_no_boxes_are_no_trouble() -> None:
    moved, kept = View(10, 10, 2, 2, 8, 8).move(np.zeros((0, 4)))
    assert moved.shape == (0, 4)
    assert kept.shape == (0,)


@given(st.integers(0, 500), st.booleans())
def test_boxes_stay_on_their_pixels(seed: int, flip: bool) -> None:
    """A bright rectangle is where its box is, whatever the crop."""
    rng = np.random.default_rng(seed)
    pixels = torch.zeros(3, 60, 80, dtype=torch.uint8)
    pixels[:, 20:40, 24:56] = 255
    transform = ImageTransform(64, (0.5, 1.0), flip)
    view = transform.draw(rng, 80, 60, may_flip=True)
    boxes, kept = view.move(np.array([[24 / 80, 20 / 60, 56 / 80, 40 / 60]]))
    if not kept[0]:
        return
    bright = transform.apply(pixels, view)[0] > 127
    columns, rows = torch.nonzero(bright.any(0)).flatten(), torch.nonzero(bright.any(1)).flatten()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(np.array(found) / 64, boxes[0], atol=1.01 / 64)


def test_crops_keep_the_share_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    transform = ImageTransform(32, (0.25, 0.5))
    views = [transform.draw(rng, 400, 300, may_flip=False) for _ in range(300)]
    shares = np.array([(view.x1 - view.x0) * (view.y1 - view.y0) / 120_000 for view in views])
    assert 0.24 < shares.min() < 0.27
    assert 0.48 < shares.max() < 0.51
    assert min(view.x0 for view in views) < 10
    assert max(view.x1 for view in views) > 390
    assert not any(view.flipped for view in views)


def test_half_of_the_pictures_are_mirrored() -> None:
    rng = np.random.default_rng(0)
    flips = [ImageTransform(8, flip=True).draw(rng, 8, 8, may_flip=True).flipped for _ in range(400)]
    assert 150 < sum(flips) < 250


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.9, 0.5), (0.5, 1.1)])
def test_an_impossible_crop_names_its_key(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="data.crop_scale"):
        ImageTransform(32, scale)


@pytest.mark.parametrize(
    ("size", "seen"), [((90, 50), (20, 0, 70, 50)), ((51, 90), (0, 19, 51, 70)), ((8, 8), (0, 0, 8, 8))]
)
def test_the_central_square_is_seen_and_boxes_follow(size: tuple[int, int], seen: tuple[int, int, int, int]) -> None:
    transform = ImageTransform(16, framing="centre")
    view = transform.draw(np.random.default_rng(0), *size, may_flip=True)
    assert (view.x0, view.y0, view.x1, view.y1) == seen
    boxes, kept = view.move(np.array([[seen[0] / size[0], seen[1] / size[1], seen[2] / size[0], seen[3] / size[1]]]))
    np.testing.assert_allclose(boxes, [[0, 0, 1, 1]], atol=1e-12)
    assert kept.all()
    columns = torch.arange(size[0]).expand(3, size[1], -1).to(torch.uint8)
    assert transform.apply(columns, view).shape == (3, 16, 16)
    assert abs(int(transform.apply(columns, view).float().mean()) - (seen[0] + seen[2] - 1) // 2) <= 1


def test_a_crop_of_the_central_square_stays_within_it() -> None:
    transform = ImageTransform(16, (0.3, 0.9), framing="centre")
    for seed in range(50):
        view = transform.draw(np.random.default_rng(seed), 100, 40, may_flip=True)
        assert 30 <= view.x0 < view.x1 <= 70
        assert 0 <= view.y0 < view.y1 <= 40


def test_a_wide_picture_is_folded_its_left_half_above_its_right_half() -> None:
    picture = torch.arange(16).expand(3, 4, -1).to(torch.uint8) * 10  # 16 x 4, a column a level
    transform = ImageTransform(8, framing="fold")
    view = transform.draw(np.random.default_rng(0), 16, 4, may_flip=True)
    assert (view.width, view.height, view.is_whole) == (8, 8, True)
    expected = torch.cat([picture[:, :, :8], picture[:, :, 8:]], dim=1)
    assert torch.equal(transform.apply(picture, view), expected)


def test_boxes_follow_a_fold_to_the_row_of_their_middle() -> None:
    view = ImageTransform(8, framing="fold").draw(np.random.default_rng(0), 400, 100, may_flip=False)
    pixels = np.array([[20, 40, 60, 80], [220, 40, 260, 80], [190, 0, 206, 20], [0, 0, 400, 100]])
    boxes, kept = view.move(pixels / [400, 100, 400, 100])
    folded = np.array([[20, 40, 60, 80], [20, 140, 60, 180], [190, 0, 200, 20], [0, 100, 200, 200]])
    np.testing.assert_allclose(boxes, folded / 200, atol=1e-7)
    assert kept.tolist() == [True, True, True, True]


def test_a_fold_that_cuts_a_box_leaves_a_part_of_it_in_each_row() -> None:
    view = ImageTransform(8, framing="fold").draw(np.random.default_rng(0), 400, 100, may_flip=False)
    pixels = np.array([[20, 40, 60, 80], [190, 0, 210, 20], [220, 40, 260, 80], [150, 0, 200, 10]])
    parts, of = view.parts(pixels / [400, 100, 400, 100])
    folded = np.array([[20, 40, 60, 80], [190, 0, 200, 20], [0, 100, 10, 120], [20, 140, 60, 180], [150, 0, 200, 10]])
    np.testing.assert_allclose(parts, folded / 200, atol=1e-7)
    assert of.tolist() == [0, 1, 1, 2, 3]


def test_parts_are_the_boxes_that_kept_half_of_their_area_where_nothing_is_folded() -> None:
    view = View(10, 10, 2, 0, 10, 10)
    boxes = np.array([[0.0, 0.0, 0.3, 1.0], [0.1, 0.0, 0.6, 1.0], [0.0, 0.0, 0.2, 0.2]])
    moved, kept = view.move(boxes)
    parts, of = view.parts(boxes)
    assert of.tolist() == [1]
    assert kept.tolist() == [False, True, False]
    np.testing.assert_array_equal(parts, moved[kept])


@pytest.mark.parametrize("size", [(9, 9), (9, 20), (12, 9)])
def test_a_picture_that_is_not_wide_is_not_folded(size: tuple[int, int]) -> None:
    view = ImageTransform(8, framing="fold").draw(np.random.default_rng(0), *size, may_flip=True)
    assert (view.width, view.height, view.folds) == (*size, 1)
