"""The photometric augmentation changes how a picture looks, and never what a colour is called."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.augment import (
    OPERATIONS,
    STRETCH,
    Operation,
    Photometric,
    auto_contrast,
    brightness,
    contrast,
    draw_photometric,
    saturation,
)
from datamodules.transforms import ImageTransform, View

COLOURS = {
    "red": (220, 20, 30),
    "orange": (255, 150, 10),
    "yellow": (250, 220, 20),
    "green": (20, 160, 40),
    "blue": (30, 60, 220),
    "purple": (130, 30, 160),
    "pink": (250, 150, 190),
    "brown": (130, 75, 30),
}
GREYS = {"black": (10, 10, 10), "grey": (128, 128, 128), "white": (250, 250, 250)}
SIDE = 24  # of a colour's field


def chart() -> Tensor:
    """Return (3, 24, 24 * 11): a field of each colour, then black, grey and white."""
    fields = torch.tensor([*COLOURS.values(), *GREYS.values()], dtype=torch.uint8)
    return fields.T[:, None, :].repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)


def levels(image: Tensor) -> list[tuple[int, int, int]]:
    """Return the level in the middle of each field."""
    middles = image[:, SIDE // 2, SIDE // 2 :: SIDE].T.tolist()
    return [(red, green, blue) for red, green, blue in middles]


def all_draws(magnitude: int, ops: int) -> list[Photometric]:
    rng = np.random.default_rng(0)
    return [draw_photometric(rng, ops, magnitude) for _ in range(60)]


@pytest.mark.parametrize(("magnitude", "ops"), [(5, 2), (10, 2), (10, len(OPERATIONS))])
def test_colours_keep_their_hue_and_stay_colours(magnitude: int, ops: int) -> None:
    for photometric in all_draws(magnitude, ops):
        for (name, before), after in zip(COLOURS.items(), levels(photometric.apply(chart())), strict=False):
            turned = abs(colorsys.rgb_to_hsv(*before)[0] - colorsys.rgb_to_hsv(*after)[0]) * 360
            assert min(turned, 360 - turned) < 6, f"{name} {before} became {after} by {photometric}"
            spread = max(before) - min(before)
            assert max(after) - min(after) > 0.25 * spread, f"{name} {before} became {after} by {photometric}"


@pytest.mark.parametrize(("magnitude", "ops"), [(5, 2), (10, len(OPERATIONS))])
def test_greys_stay_grey_and_in_their_order(magnitude: int, ops: int) -> None:
    for photometric in all_draws(magnitude, ops):
        black, grey, white = levels(photometric.apply(chart()))[len(COLOURS) :]
        for level in (black, grey, white):
            assert max(level) - min(level) <= 3
        assert black[0] + 40 < grey[0] < white[0] - 40


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [1, 4, 5, 32])
def test_every_operation_changes_levels_only(operation: Operation, size: int) -> None:
    image = torch.from_numpy(np.random.default_rng(1).integers(50, 200, size=(3, size, size), dtype=np.uint8))
    before = image.clone()
    for amount in (-1.0, 0.0, 1.0):
        after = Photometric(((operation, amount),)).apply(image)
        assert after.shape == image.shape
        assert after.dtype == torch.uint8
        assert torch.equal(image, before)
        if not amount:
            assert torch.equal(after, image)
        elif size == 32:
            assert not torch.equal(after, image)


def test_levels_worked_by_hand() -> None:
    image = torch.tensor([100, 100, 200], dtype=torch.uint8).view(3, 1, 1).repeat(1, 2, 2)
    assert brightness(image, -1)[:, 0, 0].tolist() == [70, 70, 140]  # 0.7 of each
    assert brightness(image, 1)[:, 0, 0].tolist() == pytest.approx([146.5, 146.5, 216.5], abs=1)  # 0.3 of the way up
    # the grey is 0.299 * 100 + 0.587 * 100 + 0.114 * 200 = 111.4
    assert contrast(image, 1)[:, 0, 0].tolist() == pytest.approx([103.4, 103.4, 173.4], abs=1.1)
    assert saturation(image, -1)[:, 0, 0].tolist() == pytest.approx([104.6, 104.6, 164.6], abs=1.1)


def test_auto_contrast_reaches_both_ends_where_they_are_near() -> None:
    near = torch.tensor([STRETCH // 2, 255 - STRETCH // 2], dtype=torch.uint8).repeat(3, 4, 1)
    assert auto_contrast(near, 1)[0, 0].tolist() == pytest.approx([0, 255], abs=2)
    far = torch.tensor([100, 140], dtype=torch.uint8).repeat(3, 4, 1)
    gain = 255 / (255 - STRETCH)  # away from white, then away from black
    expected = [(255 - (255 - level) * gain) * gain for level in (100, 140)]
    assert auto_contrast(far, 1)[0, 0].tolist() == pytest.approx(expected, abs=2)


def test_operations_are_different_and_all_come() -> None:
    draws = all_draws(7, 3)
    for draw in draws:
        assert len({operation for operation, _ in draw.steps}) == 3
        assert {abs(amount) for _, amount in draw.steps} == {0.7}
    assert {operation for draw in draws for operation, _ in draw.steps} == set(OPERATIONS)
    assert {amount for draw in draws for _, amount in draw.steps} == {-0.7, 0.7}


@pytest.mark.parametrize("ops", range(1, len(OPERATIONS) + 1))
def test_as_many_numbers_are_drawn_whatever_the_options(ops: int) -> None:
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    draw_photometric(rng, ops, ops)
    other.random(12)
    assert rng.bit_generator.state == other.bit_generator.state


def test_no_operations_draw_nothing() -> None:
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    assert draw_photometric(rng, 0, 5) == Photometric()
    assert rng.bit_generator.state == other.bit_generator.state
    image = chart()
    assert Photometric().apply(image) is image


def test_equal_generators_give_equal_pictures() -> None:
    transform = ImageTransform(16, (0.5, 1.0), True, augment_ops=3, augment_magnitude=9)
    seen = []
    for _ in range(2):
        rng = np.random.default_rng(8)
        view = transform.draw(rng, chart().shape[2], SIDE, may_flip=True)
        seen.append((view, transform.apply(chart(), view), rng.random()))
    assert seen[0][0] == seen[1][0]
    assert torch.equal(seen[0][1], seen[1][1])
    assert seen[0][2] == seen[1][2]


def test_the_view_is_drawn_before_the_levels() -> None:
    plain, augmented = (ImageTransform(16, (0.5, 1.0), True, ops) for ops in (0, 2))
    views = [t.draw(np.random.default_rng(4), 80, 60, may_flip=True) for t in (plain, augmented)]
    assert views[0] == View(**{**vars(views[1]), "photometric": Photometric()})
    assert len(views[1].photometric.steps) == 2


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"augment_ops": -1}, "data.augment_ops is -1"),
        ({"augment_ops": 7}, "data.augment_ops is 7"),
        ({"augment_magnitude": -1}, "data.augment_magnitude is -1"),
        ({"augment_magnitude": 11}, "data.augment_magnitude is 11"),
    ],
)
def test_an_impossible_option_names_its_key(options: dict[str, int], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ImageTransform(32, **options)  # type: ignore[arg-type]
