"""Classification and segmentation: pooling, smoothing, what counts, what comes back from a folder, what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv, to_hex, to_rgb
from PIL import Image
from torch.nn import functional as F

from tests.factories import generator, run_checkpoint
from vle_lightning.batch import IGNORED, Batch, DataFacts, LabelBatch, MaskBatch
from vle_lightning.errors import UserError
from vle_lightning.export import find_task
from vle_lightning.hub.pretrained import read_pretrained
from vle_lightning.models.mome import MoMEConfig
from vle_lightning.models.upernet import Maps
from vle_lightning.optim import OptimConfig, make_optimizer, parameter_groups
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.classification import ClassificationTask
from vle_lightning.tasks.image_alone import ImageAloneTask
from vle_lightning.tasks.image_drawings import class_colours
from vle_lightning.tasks.pictures import Names
from vle_lightning.tasks.segmentation import SegmentationTask

MOME = MoMEConfig(48, 8, 256, 32, 4, 4, 64, 2, 32)
NAMES = ["sky", "sea", "sand"]
CLASSES, SIZE = 7, 48


def label_batch(rows: int = 4, seed: int = 0) -> LabelBatch:
    return LabelBatch(
        sample_ids=tuple(f"image/{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, SIZE, SIZE, generator=generator(seed)),
        targets=torch.arange(rows) % CLASSES,
    )


def mask_batch(rows: int = 2, seed: int = 0) -> MaskBatch:
    random = generator(seed)
    masks = torch.randint(0, 3, (rows, 6, 6), generator=random).repeat_interleave(8, 1).repeat_interleave(8, 2)
    masks[:, :4] = IGNORED
    return MaskBatch(
        sample_ids=tuple(f"image/{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, SIZE, SIZE, generator=random),
        targets=masks,
    )


Case = tuple[Callable[[], ImageAloneTask], Callable[..., Batch], str]
CASES: dict[str, Case] = {
    "classification": (lambda: ClassificationTask("tiny", CLASSES), label_batch, "acc@1"),
    "classification of mome": (lambda: ClassificationTask(MOME, CLASSES, "first"), label_batch, "acc@1"),
    "segmentation": (lambda: SegmentationTask("tiny", 3, 8), mask_batch, "pixel_accuracy"),
    "segmentation of mome": (lambda: SegmentationTask(MOME, 3, 8), mask_batch, "pixel_accuracy"),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def without_trainer() -> Iterator[None]:
    torch.manual_seed(0)
    with patch.object(VisionLanguageTask, "log"):
        yield


@cases
def test_all_that_trains_gets_a_gradient(case: Case) -> None:
    task = case[0]()
    task.step(case[1](), Stage.TRAIN).backward()
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []
    trained = {id(p) for group in parameter_groups(task, OptimConfig()) for p in group["params"]}  # type: ignore[attr-defined]
    assert trained == {id(p) for p in task.parameters() if p.requires_grad}


@pytest.mark.slow
@cases
def test_a_task_overfits_its_images(case: Case) -> None:
    task, batch = case[0](), case[1]()
    optimizer, _ = make_optimizer(task, OptimConfig(lr=3e-3, warmup=0.0, fusion_multiplier=1, head_multiplier=1), 150)
    first = float(task.step(batch, Stage.TRAIN).detach())
    for _ in range(150):
        optimizer.zero_grad()
        task.step(batch, Stage.TRAIN).backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        assert float(task.step(batch, Stage.VAL)) < 0.3 * first


@cases
def test_a_micro_batch_of_one_and_one_of_fillers_train(case: Case) -> None:
    task = case[0]()
    assert torch.isfinite(task.step(case[1](rows=1), Stage.TRAIN))
    nothing = replace(case[1](rows=2), valid=torch.zeros(2, dtype=torch.bool))
    loss = task.step(nothing, Stage.TRAIN)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(p.grad.abs().sum()) == 0 for p in task.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if "mome" in name else (), id=name) for name, case in CASES.items()],
)
def test_a_task_comes_back_from_its_folder_and_its_checkpoint(case: Case, tmp_path: Path) -> None:
    task, batch = case[0]().eval(), case[1]()
    task.save_pretrained(tmp_path)
    source = read_pretrained(tmp_path)
    again = find_task(source).restore(source).eval()
    assert type(again) is type(task)
    assert again.options == task.options
    saved = run_checkpoint(task)
    task.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "run.ckpt")
    third = type(task).from_pretrained(tmp_path / "run.ckpt").eval()
    with torch.no_grad():
        expected = task(batch)
        for other in (again(batch), third(batch)):
            torch.testing.assert_close(other, expected)
    other = type(task)(task.model.config, init=str(tmp_path))  # type: ignore[call-arg]
    assert other.new_heads == (task.task_name(),)


@cases
def test_pictures_and_predictions(case: Case) -> None:
    task, batch = case[0]().eval(), case[1]()
    task.labels = [f"class {number}" for number in range(task.classes)]
    (picture,) = task.pictures(batch, Names(str, ()))
    assert len(picture.figure.axes) >= 2 * len(batch)
    batch = replace(batch, valid=torch.arange(len(batch)) > 0)
    with torch.no_grad():
        rows = task.predict_step(batch)
    assert [row["id"] for row in rows] == list(batch.sample_ids[1:])


def test_the_mean_is_of_patches_alone_behind_the_last_layer() -> None:
    batch = label_batch()
    for pooling, pick in (("mean", lambda s: s[:, 1:].mean(1)), ("first", lambda s: s[:, 0])):
        task = ClassificationTask(MOME, CLASSES, pooling).eval()  # type: ignore[arg-type]
        states = task.model.encode_single(task.model.encode_image(batch.pixel_values), "image")  # type: ignore[operator]
        pooled = pick(states)  # type: ignore[no-untyped-call]
        normed = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        expected = task.head[1](normed)
        torch.testing.assert_close(task(batch), expected)


def test_smoothing_spreads_its_share_over_all_classes_in_training_alone() -> None:
    task, batch = ClassificationTask("tiny", CLASSES, label_smoothing=0.3).eval(), label_batch()
    logits = task(batch)
    rates = logits.log_softmax(1)
    targets = 0.7 * F.one_hot(batch.targets, CLASSES) + 0.3 / CLASSES
    torch.testing.assert_close(task.step(batch, Stage.TRAIN), -(targets * rates).sum(1).mean())
    torch.testing.assert_close(task.step(batch, Stage.VAL), F.cross_entropy(logits, batch.targets))


def test_hidden_and_filler_images_reach_no_score() -> None:
    task = ClassificationTask("tiny", CLASSES).eval()
    batch = replace(
        label_batch(6),
        targets=torch.tensor([0, 1, 2, IGNORED, 4, 5]),
        valid=torch.tensor([True] * 5 + [False]),
    )
    logits = torch.zeros(6, CLASSES)
    logits[range(6), [0, 2, 3, 0, 3, 0]] = 9.0
    logits[2, 2], logits[1, 1] = 1.0, -9.0
    with patch.object(ClassificationTask, "forward", return_value=logits):
        task.step(batch, Stage.VAL)
    found = {name: float(task.get_submodule(f"_scores.val.{name}").compute()) for name in ("acc@1", "acc@5")}  # type: ignore[operator]
    assert found["acc@1"] == pytest.approx(1 / 4)
    assert 2 / 4 <= found["acc@5"] <= 3 / 4  # row 1 has its class last, row 4 ties among equals


def test_masks_are_scored_at_their_own_size() -> None:
    """Scores are interpolated to the mask; an image that is a filler does not count."""
    task = SegmentationTask("tiny", 3, 8).eval()
    task.labels = NAMES
    halves = np.concatenate([np.full((10, 6), 1), np.full((10, 6), 2)], 1).astype(np.uint8)
    halves[0] = 0
    batch = replace(mask_batch(), own_targets=(halves, halves), valid=torch.tensor([True, False]))
    logits = torch.zeros(2, 3, 24, 24)
    logits[:, 0, :, :12], logits[:, 1, :, 12:] = 5.0, 5.0
    logits[:, 2, 12:] = 9.0  # the lower half is taken for sand
    with patch.object(SegmentationTask, "forward", return_value=Maps(logits, None)):
        task.step(batch, Stage.VAL)
        (row,) = task.predict_step(batch)
    scores = task.split_scores(Stage.VAL)
    assert scores["pixel_accuracy"] == pytest.approx(4 / 9)  # rows 1 to 4 of 1 to 9
    assert scores["iou_sky"] == scores["iou_sea"] == pytest.approx(4 / 9)
    assert scores["miou"] == pytest.approx((4 / 9 + 4 / 9 + 0) / 3)
    mask = np.array(Image.open(io.BytesIO(base64.b64decode(str(row["mask_png"])))))
    assert mask.shape == (10, 12)
    np.testing.assert_array_equal(mask[:5], [[1] * 6 + [2] * 6] * 5)
    assert (mask[5:] == 3).all()
    assert np.isnan(task.split_scores(Stage.VAL)["miou"])


def test_masks_are_drawn_in_colours_that_the_legend_tells_apart() -> None:
    task, batch = SegmentationTask("tiny", 3, 8).eval(), mask_batch()
    task.labels = NAMES
    batch = replace(batch, targets=batch.targets.masked_fill(batch.targets == 1, 2))
    logits = torch.zeros(2, 3, 24, 24).index_fill(1, torch.tensor([2]), 1.0)
    with patch.object(SegmentationTask, "forward", return_value=Maps(logits, None)):
        (picture,) = task.pictures(batch, Names(str, ()))
    (legend,) = picture.figure.legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == ["sky", "sand", "no class"]  # nobody sees the sea
    assert [to_hex(part.get_facecolor()) for part in legend.get_patches()][2] == "#000000"
    mask = picture.figure.axes[1].get_images()[0]
    values = mask.get_array()
    assert values is not None
    assert to_hex(mask.to_rgba(values)[0, 0]) == "#000000"  # the upper rows have no class


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_neighbours_in_the_list_of_classes_have_other_hues(classes: int) -> None:
    hues = [rgb_to_hsv(to_rgb(class_colours(classes)(number + 1)))[0] for number in range(classes)]
    steps = [min(abs(one - two), 1 - abs(one - two)) for one, two in pairwise(hues)]
    assert sum(step < 0.02 for step in steps) <= classes // 20  # in the middle of tab20 lies grey, which has none


def test_the_loss_is_the_mean_over_pixels_of_a_class_and_the_auxiliarys_share() -> None:
    task, batch = SegmentationTask("tiny", 3, 8, auxiliary_weight=0.25), mask_batch()
    maps = task(batch)
    assert maps.auxiliary is not None
    losses = [
        F.cross_entropy(F.interpolate(part, (48, 48), mode="bilinear"), batch.targets, ignore_index=IGNORED)
        for part in (maps.logits, maps.auxiliary)
    ]
    torch.testing.assert_close(task.step(batch, Stage.TRAIN), losses[0] + 0.25 * losses[1])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ClassificationTask("tiny", blind="image"), "has nothing but the image"),
        (lambda: ClassificationTask("tiny", 1), "model.classes is 1"),
        (lambda: ClassificationTask("tiny", pooling="last"), "choose mean or first"),  # type: ignore[arg-type]
        (lambda: ClassificationTask("tiny", label_smoothing=1.0), "a share from 0 up to below 1"),
        (lambda: SegmentationTask("tiny", depths=[1, 2]), "give 4 numbers of layers"),
        (lambda: SegmentationTask("toy", depths=[2, 1, 1, 2]), "none below the one before it"),
        (
            lambda: SegmentationTask("toy", depths=[9, 9, 9, 9]),
            "model.depths is .9, 9, 9, 9.; give 4 numbers of layers fr",
        ),
        (lambda: SegmentationTask("tiny", depths=[1, 1, 1, 9]), "from 1 to 1"),
        (lambda: SegmentationTask("tiny", channels=0), "model.channels is 0"),
    ],
)
def test_wrong_options_are_told_in_a_sentence(make: Callable[[], VisionLanguageTask], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()


def test_another_number_of_classes_is_told_before_training() -> None:
    task = ClassificationTask("tiny", 5)
    assert task.disagreements(DataFacts(image_size=48, classes=5)) == []
    assert task.disagreements(DataFacts(image_size=48, classes=6)) == [
        "data.classes lists 6 classes, but model.classes is 5"
    ]
