"""Mean intersection over union: against a literal restatement, and on two ranks."""

from __future__ import annotations

import math
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed

from vle_lightning.batch import IGNORED
from vle_lightning.errors import UserError
from vle_lightning.metrics.mean_iou import PixelConfusion, segment_scores

NAMES = ("sky", "sea", "sand", "ship")


def drawn(seed: int, images: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Draw predictions and masks of several sizes, some pixels of no class; the last class is rare."""
    random = torch.Generator().manual_seed(seed)
    sizes = [(3 + image, 9 - image) for image in range(images)]
    predictions = [torch.randint(0, 3 + (image == 0), size, generator=random) for image, size in enumerate(sizes)]
    truths = [torch.randint(-1, 3, size, generator=random) for size in sizes]
    return [(p, t.masked_fill(t < 0, IGNORED)) for p, t in zip(predictions, truths, strict=True)]


def counted(images: list[tuple[Tensor, Tensor]]) -> PixelConfusion:
    """Count the pixels of some images."""
    metric = PixelConfusion(len(NAMES))
    for predictions, truth in images:
        metric.update(predictions, truth)
    return metric


@given(seed=st.integers(0, 2**20))
def test_scores_are_those_of_the_definition(seed: int) -> None:
    """Over all pixels of all images together, intersection and union are sets of pixels."""
    images = drawn(seed)
    scores = segment_scores(counted(images).compute().tolist(), NAMES)
    pixels = [
        (image, place, int(p), int(t))
        for image, (predictions, truth) in enumerate(images)
        for place, (p, t) in enumerate(zip(predictions.flatten(), truth.flatten(), strict=True))
        if t != IGNORED
    ]
    expected = {}
    for number, name in enumerate(NAMES):
        predicted = {(image, place) for image, place, p, _ in pixels if p == number}
        true = {(image, place) for image, place, _, t in pixels if t == number}
        expected[name] = len(predicted & true) / len(predicted | true) if predicted | true else math.nan
    assert scores.iou == pytest.approx(expected, nan_ok=True)
    known = [share for share in expected.values() if not math.isnan(share)]
    assert scores.miou == pytest.approx(sum(known) / len(known))
    assert scores.pixel_accuracy == pytest.approx(sum(p == t for *_, p, t in pixels) / len(pixels))


def test_scores_worked_by_hand() -> None:
    """Of the sea 6 of 8 pixels are right and 2 were taken for sky; the ship does not occur, sand was seen once."""
    scores = segment_scores([[4, 0, 0, 0], [2, 6, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], NAMES)
    assert scores.iou == pytest.approx({"sky": 4 / 6, "sea": 6 / 8, "sand": math.nan, "ship": math.nan}, nan_ok=True)
    assert (scores.miou, scores.pixel_accuracy) == pytest.approx(((4 / 6 + 6 / 8) / 2, 10 / 12))
    assert scores.mean_accuracy == pytest.approx((1 + 6 / 8) / 2)


def test_nothing_judged_is_no_number() -> None:
    assert math.isnan(segment_scores([[0, 0], [0, 0]], "ab").miou)
    with pytest.raises(UserError, match="2 classes needs as many rows"):
        segment_scores([[0, 0, 0]], "ab")


def work(rank: int, folder: Path) -> None:
    """Be one of two ranks, of which the second has a single image, then none; write what both compute."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    images, found = drawn(3), []
    for shares in ((images[:5], images[5:]), (images, [])):
        metric = counted(shares[rank])
        found.append(metric.compute().tolist())
        metric.reset()
        assert not metric.counts.any()
    distributed.destroy_process_group()
    (folder / f"rank-{rank}").write_bytes(pickle.dumps(found))


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    expected = counted(drawn(3)).compute().tolist()
    for rank in range(2):
        assert pickle.loads((tmp_path / f"rank-{rank}").read_bytes()) == [expected, expected]
