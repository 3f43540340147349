"""Small random batches for tests, and a small checkpoint."""

from __future__ import annotations

from typing import Any, TypeVar

import PIL
import torch
from torch import Tensor

from vle_lightning.batch import IGNORED, ImageBatch, PretrainBatch, StatementBatch, TextBatch, VCRBatch, VQABatch
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.optim import make_optimizer
from vle_lightning.resuming import LOOPS
from vle_lightning.tasks.base import VisionLanguageTask

KindT = TypeVar("KindT")

WORDS, CLASSES, ANSWERS, CODES = 200, 24, 7, 12
ANSWER_NAMES = [f"answer {number}" for number in range(ANSWERS)]
SIZE = 48  # pixels
PATCHES = 36  # of the tiny preset, 8 pixels each

# Pillow 13 shrinks tall pictures vertically first (python-pillow/Pillow#9549); the authors' fixtures have its pixels
OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13

PARTS = ("text", "image", "fusion")  # of a dual stream


def generator(seed: int) -> torch.Generator:
    """Return a seeded source of random numbers."""
    return torch.Generator().manual_seed(seed)


def make_texts(rows: int, tokens: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ids (rows, tokens) of varying length, at least four, the first as long as allowed, and their mask."""
    lengths = torch.randint(4, tokens + 1, (rows,), generator=random)
    lengths[0] = tokens
    mask = torch.arange(tokens) < lengths[:, None]
    ids = torch.randint(5, WORDS, (rows, tokens), generator=random)
    ids[:, 0] = 1
    return ids.masked_fill(~mask, 0), mask


def make_boxes(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Draw boxes (*shape, 4) of a third of the picture's edge, inside the picture."""
    corner = torch.rand(*shape, 2, generator=random) * 0.6
    return torch.cat([corner, corner + 0.35], dim=-1)


def pretrain_batch(rows: int = 4, tokens: int = 9, regions: int = 3, seed: int = 0) -> PretrainBatch:
    """Make pairs of which the first half is shifted, with a mentioned box each, and by turns one or two hidden ones."""
    random = generator(seed)
    ids, mask = make_texts(rows, tokens, random)
    chosen = mask & (torch.rand(rows, tokens, generator=random) < 0.3)
    chosen[:, 0], chosen[:, 1] = False, True
    partner = torch.arange(rows)
    partner[: rows // 2] = (partner[: rows // 2] + 1) % rows
    boxes, classes = make_boxes((rows, regions), random), torch.randint(0, CLASSES, (rows, 2), generator=random)
    return PretrainBatch(
        sample_ids=tuple(f"sample/{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, SIZE, SIZE, generator=random),
        input_ids=ids,
        attention_mask=mask,
        texts=tuple(f"text {row}" for row in range(rows)),
        keys=torch.arange(rows)[:, None].expand(-1, 3),
        masked_input_ids=ids.masked_fill(chosen, 4),
        mlm_targets=ids.masked_fill(~chosen, IGNORED),
        mlm_content=chosen,
        partner=partner,
        drawn_rows=torch.zeros(0, dtype=torch.long),
        drawn_pixel_values=torch.zeros(0, 3, SIZE, SIZE),
        boxes=boxes,
        box_valid=torch.ones(rows, regions, dtype=torch.bool),
        box_mentioned=(torch.arange(regions) == 1).repeat(rows, 1),
        hidden_boxes=boxes[:, :2],
        hidden_classes=torch.where(torch.arange(2) <= torch.arange(rows)[:, None] % 2, classes, -1),
        hidden_patches=(torch.arange(PATCHES) + torch.arange(rows)[:, None]) % 5 == 0,
        patch_codes=(torch.arange(PATCHES) + 7 * torch.arange(rows)[:, None]) % CODES,
    )


def image_batch(rows: int = 4, seed: int = 0) -> ImageBatch:
    """Make images alone, two patches in five of which touch an object."""
    random, pairs = generator(seed), pretrain_batch(rows, seed=seed)
    return ImageBatch(
        sample_ids=pairs.sample_ids,
        valid=pairs.valid,
        step=0,
        number=0,
        pixel_values=pairs.pixel_values,
        hidden_patches=pairs.hidden_patches,
        patch_codes=pairs.patch_codes,
        object_patches=torch.rand(rows, PATCHES, generator=random) < 0.4,
    )


def text_batch(rows: int = 4, seed: int = 0) -> TextBatch:
    """Make texts alone."""
    pairs = pretrain_batch(rows, seed=seed)
    return TextBatch(
        sample_ids=pairs.sample_ids,
        valid=pairs.valid,
        step=0,
        number=0,
        masked_input_ids=pairs.masked_input_ids,
        input_ids=pairs.input_ids,
        attention_mask=pairs.attention_mask,
        mlm_targets=pairs.mlm_targets,
        mlm_content=pairs.mlm_content,
        texts=pairs.texts,
    )


def vqa_batch(rows: int = 4, tokens: int = 7, seed: int = 0) -> VQABatch:
    """Make questions whose right answer has full credit and another some."""
    random = generator(seed)
    ids, mask = make_texts(rows, tokens, random)
    answers = torch.arange(rows) % ANSWERS
    targets = torch.zeros(rows, ANSWERS)
    targets[torch.arange(rows), answers] = 1.0
    targets[torch.arange(rows), (answers + 1) % ANSWERS] = 0.3
    return VQABatch(
        sample_ids=tuple(f"question/{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, SIZE, SIZE, generator=random),
        input_ids=ids,
        attention_mask=mask,
        texts=tuple(f"question {row}" for row in range(rows)),
        targets=targets,
        question_ids=tuple(str(row) for row in range(rows)),
        answers=tuple((ANSWER_NAMES[answer],) * 10 for answer in answers.tolist()),
        answer_types=("other",) * rows,
        question_types=tuple("what is" if row % 2 else "is" for row in range(rows)),
    )


def vcr_batch(rows: int = 4, tokens: int = 8, regions: int = 2, seed: int = 0) -> VCRBatch:
    """Make questions whose choices tag one or two objects."""
    random = generator(seed)
    ids, mask = make_texts(4 * rows, tokens, random)
    types = torch.zeros(rows, 4, tokens, dtype=torch.long)
    types[..., 2] = 2
    valid = torch.ones(rows, 4, regions, dtype=torch.bool)
    valid[:, 1, -1] = False
    return VCRBatch(
        sample_ids=tuple(f"vcr/{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, SIZE, SIZE, generator=random),
        input_ids=ids.unflatten(0, (rows, 4)),
        attention_mask=mask.unflatten(0, (rows, 4)),
        texts=tuple(f"question {row}" for row in range(rows)),
        token_types=types,
        regions=make_boxes((rows, 4, regions), random),
        region_valid=valid,
        region_types=torch.arange(2, 2 + regions).repeat(rows, 4, 1),
        targets=torch.arange(rows) % 4,
        families=tuple("colour" if row % 2 else "place" for row in range(rows)),
        question_ids=tuple(f"val-{row}" for row in range(rows)),
    )


def statement_batch(rows: int = 4, tokens: int = 7, images: int = 1, classes: int = 2, seed: int = 0) -> StatementBatch:
    """Make statements about one image or two, each in a group with its neighbour."""
    random = generator(seed)
    ids, mask = make_texts(rows, tokens, random)
    shape = (rows, 3, SIZE, SIZE) if images == 1 else (rows, images, 3, SIZE, SIZE)
    return StatementBatch(
        sample_ids=tuple(f"image/{row}/s{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(shape, generator=random),
        input_ids=ids,
        attention_mask=mask,
        texts=tuple(f"statement {row}" for row in range(rows)),
        targets=torch.arange(rows) % classes,
        statement_ids=tuple(f"s{row}" for row in range(rows)),
        groups=tuple(f"g{row // 2}" for row in range(rows)),
    )


def run_checkpoint(task: VisionLanguageTask, **more: object) -> dict[str, Any]:
    """Make what a run saves after three steps; the moments are ones."""
    optimizer, _ = make_optimizer(task, task.optim, 10)
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        ones = torch.ones_like(parameter)
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": ones, "exp_avg_sq": ones}
    done = {"total": {"ready": 3, "completed": 3}, "current": {"ready": 3, "completed": 3}}
    loops: dict[str, Any] = {key: {} if "state_dict" in key else done for key in LOOPS}
    loops["epoch_loop.automatic_optimization.optim_progress"] = {"optimizer": {"step": done, "zero_grad": done}}
    return {
        "state_dict": task.state_dict(),
        "global_step": 3,
        "epoch": 0,
        "pytorch-lightning_version": "2.6.6",
        "loops": {"fit_loop": loops},
        "callbacks": {"Health": {"bad": 0}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 3, "_step_count": 4}],
        **more,
    }


def with_single_numbers(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Give a run's temperatures of contrast, and all moments of one number, the shape () of earlier versions."""
    weights = {
        name: value.reshape(()) if name.endswith("log_scale") else value
        for name, value in checkpoint["state_dict"].items()
    }
    (states,) = checkpoint["optimizer_states"]
    moments = {
        number: {key: value.reshape(()) if value.numel() == 1 else value for key, value in state.items()}
        for number, state in states["state"].items()
    }
    return {**checkpoint, "state_dict": weights, "optimizer_states": [{**states, "state": moments}]}


def of_kind(kind: type[KindT], part: object) -> KindT:
    """Return a part of a model, or its configuration, as the kind that it is."""
    assert isinstance(part, kind)
    return part


def dual(model: Backbone) -> DualStream:
    """Return a backbone as the dual stream that it is."""
    return of_kind(DualStream, model)
