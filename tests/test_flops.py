"""The FLOPs of a step: against torch's counter on a real step, and against formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.factories import (
    ANSWER_NAMES,
    CLASSES,
    CODES,
    PARTS,
    image_batch,
    of_kind,
    pretrain_batch,
    text_batch,
    vcr_batch,
    vqa_batch,
)
from tests.tasks.retrieval_ranks import retrieval_batch
from tests.tasks.test_image_tasks import label_batch, mask_batch
from vle_lightning.batch import Batch
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.flops import FlopRecorder, _counted, encoder_flops
from vle_lightning.gpu_check.workload import make_pairs
from vle_lightning.models.backbone import Blind, EncoderCall, Way
from vle_lightning.models.dual_stream import DualStreamConfig
from vle_lightning.models.presets import EXPERTS, PRESETS
from vle_lightning.performance import checkpoint_activations
from vle_lightning.plan.outline import OutlineConfig
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.classification import ClassificationTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.pretrain_images import PretrainImagesTask
from vle_lightning.tasks.pretrain_texts import PretrainTextsTask
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.segmentation import SegmentationTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

PATCHES, WIDTH = 36, 32  # of the tiny preset on 48 px


def vqa_task(blind: Blind = "none") -> VQATask:
    task = VQATask("tiny", answers=len(ANSWER_NAMES), blind=blind)
    task.labels = ANSWER_NAMES
    return task


def counted(task: VisionLanguageTask, batch: Batch, stage: Stage = Stage.VAL) -> tuple[dict[str, float], int]:
    """Return what the recorder and torch's counter say of one training step."""
    recorder = FlopRecorder(task.train())
    recorder.start()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        task.step(batch, stage).backward()
    return recorder.flops(), counter.get_total_flops()


def pooling(rows: int, regions: int) -> int:
    """Multiply (rows, regions, P) by (rows, P, D), forward and for the states' gradient: the recorder leaves it out."""
    return 2 * 2 * rows * regions * PATCHES * WIDTH


slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("make", "batch", "left_out"),
    [
        (lambda: PretrainTask("tiny", classes=CLASSES), pretrain_batch(rows=4), lambda: pooling(4, 2)),
        slow(lambda: VCRTask("tiny"), vcr_batch(rows=4, regions=2), lambda: pooling(4, 4 * 2)),
        slow(vqa_task, vqa_batch(), lambda: 0),
        (lambda: ClassificationTask("tiny", 7), label_batch(), lambda: 0),
        slow(lambda: SegmentationTask("toy", 3, 8), mask_batch(), lambda: 0),
    ],
    ids=["pretrain", "vcr", "vqa", "classification", "segmentation"],
)
def test_a_step_is_counted_as_torch_counts_it(
    make: Callable[[], VisionLanguageTask], batch: Batch, left_out: Callable[[], int]
) -> None:
    task = make()
    ours, theirs = counted(task, batch, Stage.TRAIN if isinstance(task, SegmentationTask) else Stage.VAL)
    assert sum(ours.values()) + left_out() == theirs


def test_looking_for_anomalies_changes_no_count() -> None:
    call = EncoderCall("text", (3, 5))
    plain = encoder_flops(PRESETS["tiny"], "none", call)
    _counted.cache_clear()
    with torch.autograd.detect_anomaly():
        assert encoder_flops(PRESETS["tiny"], "none", call) == plain
        assert torch.is_anomaly_enabled()


@pytest.mark.slow
def test_retrieval_fuses_for_the_poolers_only() -> None:
    ours, theirs = counted(RetrievalTask("tiny"), retrieval_batch(), Stage.TRAIN)
    assert sum(ours.values()) == theirs
    whole = encoder_flops(PRESETS["tiny"], "none", EncoderCall("fusion", (12, 7, 1 + PATCHES)))
    assert 0 < ours["fusion"] < whole


@pytest.mark.slow
def test_recomputed_activations_count_once() -> None:
    batch = pretrain_batch()
    plain, _ = counted(PretrainTask("tiny", classes=CLASSES), batch)
    task = PretrainTask("tiny", classes=CLASSES)
    checkpoint_activations(task.model, PARTS)
    recomputed, done = counted(task, batch)
    assert recomputed == plain
    assert sum(plain.values()) < done - pooling(4, 2)


def test_a_withheld_tower_costs_nothing() -> None:
    ours, theirs = counted(vqa_task("image"), vqa_batch())
    assert ours["image"] == 0
    assert sum(ours.values()) == theirs


def test_counting_leaves_no_trace() -> None:
    task = PretrainTask("tiny", classes=CLASSES)
    recorder = FlopRecorder(task)
    recorder.start()
    task.step(pretrain_batch(), Stage.VAL)
    state = torch.get_rng_state()
    recorder.flops()
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in task.modules())
    seen = recorder.stop()
    task.step(pretrain_batch(rows=6), Stage.VAL)
    assert recorder.stop() == seen


def formulas(config: DualStreamConfig, rows: int, tokens: int) -> dict[str, int]:
    """Count by hand: a product of (a, b) and (b, c) is 2abc; backward takes two more, one where the input is data."""
    text, image = of_kind(DebertaConfig, config.text), of_kind(ClipViTConfig, config.image)
    fusion = config.fusion
    patches, width = (image.image_size // image.patch_size) ** 2, fusion.width
    states = 1 + patches

    def layer(n: int, d: int, inner: int) -> int:
        return 2 * n * (4 * d * d + 2 * d * inner) + 4 * n * n * d

    occurring = 2 * tokens - 1
    positions = occurring if tokens <= text.exact else 2 * text.span  # each by itself, or all rows of the table
    # content to position, position to content; positions are projected once a call, as key and as query
    relative = rows * 2 * 2 * tokens * occurring * text.width + 2 * 2 * positions * text.width**2
    texts = text.layers * (rows * layer(tokens, text.width, text.intermediate) + relative)
    texts += rows * 2 * tokens * text.width * width
    embedding = rows * 2 * patches * 3 * image.patch_size**2 * image.width
    images = rows * (image.layers * layer(states, image.width, image.intermediate) + 2 * states * image.width * width)

    def cross(n: int, m: int) -> int:
        return 2 * (2 * n + 2 * m) * width**2 + 4 * n * m * width

    pair = layer(tokens, width, fusion.intermediate) + layer(states, width, fusion.intermediate)
    fused = fusion.layers * (pair + cross(tokens, states) + cross(states, tokens)) + 2 * 2 * width**2
    return {"text": 3 * texts, "image": 2 * embedding + 3 * images, "fusion": 3 * rows * fused}


@pytest.mark.parametrize(
    "name", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("toy", "vle-base"))]
)
def test_each_part_is_what_the_formulas_say(name: str) -> None:
    config = PRESETS[name]
    size = config.image.image_size
    states = 1 + (size // of_kind(ClipViTConfig, config.image).patch_size) ** 2
    calls = {"text": EncoderCall("text", (3, 11)), "image": EncoderCall("image", (3, size, size))}
    calls["fusion"] = EncoderCall("fusion", (3, 11, states))
    assert {part: encoder_flops(config, "none", call) for part, call in calls.items()} == formulas(config, 3, 11)


@pytest.mark.slow
def test_text_costs_its_positions_once_a_call() -> None:
    config = replace(PRESETS["tiny"], text=DebertaConfig(64, 32, 2, 4, 64, position_buckets=8, max_positions=32))
    one, two, three = (encoder_flops(config, "none", EncoderCall("text", (rows, 9))) for rows in (1, 2, 3))
    assert three - two == two - one
    assert 2 * one - two == 3 * 2 * (2 * 2 * 16 * 32**2)


@pytest.mark.parametrize(("way", "length"), [("text_single", 9), ("image_single", 37)])
def test_a_modality_by_itself_is_counted_by_formula(way: Way, length: int) -> None:
    """Projections and feed-forward layers a token, attention a pair of tokens; backward is twice forward."""
    config, rows = EXPERTS["vlmo-tiny"], 3
    width, inner = config.width, config.intermediate
    block = length * (4 * width**2 + 2 * width * inner) + 2 * length**2 * width
    assert encoder_flops(config, "none", EncoderCall(way, (rows, length))) == 3 * 2 * rows * config.layers * block


@pytest.mark.parametrize("modality", ["text", "image"])
def test_tasks_of_one_modality_tell_of_their_calls(modality: str) -> None:
    task: VisionLanguageTask
    task = PretrainTextsTask("vlmo-tiny") if modality == "text" else PretrainImagesTask("vlmo-tiny", codes=CODES)
    batch: Batch = text_batch() if modality == "text" else image_batch()
    recorder = FlopRecorder(task)
    recorder.start()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    VisionLanguageTask.training_step(task, batch)
    recording = recorder.stop()
    sizes = (4, 9) if modality == "text" else (4, 37)
    assert [call.way for call in recording.encoder] == [modality, f"{modality}_single"]
    assert recording.encoder[1].sizes == sizes
    heads = 1 if modality == "image" else 2  # MLM's has a transform before its decoder
    assert len(recording.heads) == heads
    twin_model = OutlineConfig.of(task.model).build()
    with twin_model.calls() as seen:
        if modality == "text":
            text = twin_model.encode_text(torch.zeros(4, 9).long(), torch.ones(4, 9).bool())
            twin_model.encode_unimodal(text, "text")
        else:
            twin_model.encode_unimodal(twin_model.encode_image(torch.zeros(4, 3, 48, 48)), "image")
    assert tuple(seen) == recording.encoder


@pytest.mark.slow
def test_meter_base_is_counted_as_torch_counts_it() -> None:
    task = PretrainTask("meter-clip16-roberta", {"mlm": 1.0, "itm": 1.0}, tied=False)
    ours, theirs = counted(task, make_pairs(1, 288, task.model.vocabulary, tokens=20))
    assert sum(ours.values()) == theirs
