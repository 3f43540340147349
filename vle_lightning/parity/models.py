"""Cases of VLEModel and of the three pre-training classes, run through our encoder and objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.models.backbone import IMAGE_TYPE, Backbone
from vle_lightning.objectives.base import Objective
from vle_lightning.objectives.itm import ImageTextMatching
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.objectives.pbc import PatchBoxClassification
from vle_lightning.parity.checks import Check
from vle_lightning.parity.fixtures import Case
from vle_lightning.parity.intermediates import Pass
from vle_lightning.parity.judging import Answer, judge, network_of, vle_network
from vle_lightning.streams import Fused, Stream
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import append


def text_mask(case: Case) -> Tensor:
    """Return the real tokens of the case's texts: (B, T) bool."""
    return case.group("input")["attention_mask"].bool()


def encoded(case: Case, encoder: Backbone) -> tuple[Stream, Stream]:
    """Encode the case's texts and images."""
    inputs = case.group("input")
    return encoder.encode_text(inputs["input_ids"], text_mask(case)), encoder.encode_image(inputs["pixel_values"])


def run_model(case: Case) -> Iterator[Check]:
    """VLEModel, with or without boxes."""
    encoder, _ = from_pretrained(case.folder.path)
    encoder.eval()

    def answer() -> Answer:
        text, image = encoded(case, encoder)
        types: tuple[Tensor | None, Tensor | None] = (None, None)
        if "patch_ids" in case.arguments:
            boxes, (image_types, text_types) = case.arguments["patch_ids"], case.arguments["extend_token_type_ids"]
            grid = encoder.layout.grid(case.group("input")["pixel_values"])
            valid = padded([[1] * len(row) for row in boxes]).bool()
            regions = encoder.pool_regions(image, membership(boxes, grid[0] * grid[1]), valid)
            types = (
                padded(text_types, text.states.shape[1]),
                torch.cat([torch.full(image.mask.shape, IMAGE_TYPE), padded(image_types)], dim=1),
            )
            image = append(image, regions)
        fused = encoder.fuse(text, image, *types)
        outputs = {"text_embeds": fused.text, "image_embeds": fused.image, "pooler_output": fused.pooled}
        return Answer(outputs, text_outputs=("text_embeds",))

    yield from judge(case, vle_network(encoder, {}), Pass(text_mask(case)), answer)


def membership(boxes: list[list[list[int]]], patches: int) -> Tensor:
    """Turn patch numbers per example and box into (B, R, patches) bool; R is the largest number of boxes."""
    member = torch.zeros(len(boxes), max(map(len, boxes), default=0), patches, dtype=torch.bool)
    for row, example in enumerate(boxes):
        for number, box in enumerate(example):
            member[row, number, box] = True
    return member


def padded(rows: list[list[int]], length: int | None = None) -> Tensor:
    """Pad lists of numbers with 0, to the longest or to ``length``: (B, N) int64."""
    longest = max(map(len, rows), default=0) if length is None else length
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=torch.long).reshape(len(rows), -1)


def run_features(case: Case) -> Iterator[Check]:
    """VLEModel.get_text_features and get_image_features: the towers alone."""
    encoder, _ = from_pretrained(case.folder.path)
    encoder.eval()
    inputs = case.group("input")

    def answer() -> Answer:
        text, _, _ = encoder.features((inputs["input_ids"], text_mask(case)), None)
        _, image, _ = encoder.features(None, inputs["pixel_values"])
        assert text is not None
        assert image is not None
        return Answer({"text_features": text.states, "image_features": image.states}, text_outputs=("text_features",))

    yield from judge(case, vle_network(encoder, {}), Pass(text_mask(case)), answer)


def run_itm(case: Case) -> Iterator[Check]:
    """VLEForITM: label 1 is a match."""

    def logits(objective: Objective, fused: Fused, _: PretrainBatch) -> Tensor:
        assert isinstance(objective, ImageTextMatching)
        scores: Tensor = objective.head(fused.pooled)
        return scores

    batch = pretrain_batch(case)
    if "itm_labels" in case.arguments:
        matches = torch.tensor(case.arguments["itm_labels"], dtype=torch.bool)
        batch = pretrain_batch(case, partner=torch.where(matches, batch.partner, batch.partner + 1))
    yield from run_objective(case, "itm", batch, logits)


def run_mlm(case: Case) -> Iterator[Check]:
    """VLEForMLM: a score for every word at every token."""

    def logits(objective: Objective, fused: Fused, _: PretrainBatch) -> Tensor:
        assert isinstance(objective, MaskedLanguageModelling)
        return objective.logits(fused.text)

    labels = case.group("input").get("mlm_labels")
    batch = pretrain_batch(case) if labels is None else pretrain_batch(case, mlm_targets=labels)
    yield from run_objective(case, "mlm", batch, logits)


def run_pbc(case: Case) -> Iterator[Check]:
    """VLEForPBC: logits of every patch; the authors' loss raises, so there is none."""

    def logits(objective: Objective, fused: Fused, batch: PretrainBatch) -> Tensor:
        assert isinstance(objective, PatchBoxClassification)
        return objective.logits(fused, batch)

    yield from run_objective(case, "pbc", pretrain_batch(case), logits)


def run_objective(
    case: Case, name: str, batch: PretrainBatch, logits: Callable[[Objective, Fused, PretrainBatch], Tensor]
) -> Iterator[Check]:
    """Run one pre-training objective on the texts and images as they are given, without drawing views."""
    task = PretrainTask.from_pretrained(case.folder.path, objectives={name: 1.0})
    network, objective = network_of(task), task.objectives[name]
    assert isinstance(objective, Objective)

    def answer() -> Answer:
        fused = network.encoder.fuse(*encoded(case, network.encoder))
        loss = (lambda: objective(fused, batch).loss) if case.has_loss else None
        return Answer({"logits": logits(objective, fused, batch)}, loss, ("logits",) if name == "mlm" else ())

    yield from judge(case, network, Pass(text_mask(case)), answer)


def pretrain_batch(case: Case, **changes: Tensor) -> PretrainBatch:
    """Make a batch of matching pairs without boxes."""
    inputs = case.group("input")
    ids, rows = inputs["input_ids"], len(inputs["input_ids"])
    none = torch.zeros(rows, 0, dtype=torch.bool)
    fields: dict[str, Any] = {
        "pixel_values": inputs["pixel_values"],
        "input_ids": ids,
        "attention_mask": text_mask(case),
        "valid": torch.ones(rows, dtype=torch.bool),
        "keys": torch.arange(rows)[:, None].expand(-1, 3),
        "masked_input_ids": ids,
        "mlm_targets": torch.full_like(ids, IGNORED),
        "mlm_content": torch.zeros_like(ids, dtype=torch.bool),
        "partner": torch.arange(rows),
        "drawn_rows": torch.zeros(0, dtype=torch.long),
        "drawn_pixel_values": inputs["pixel_values"][:0],
        "boxes": torch.zeros(rows, 0, 4),
        "box_valid": none,
        "box_mentioned": none,
        "hidden_boxes": torch.zeros(rows, 0, 4),
        "hidden_classes": torch.zeros(rows, 0, dtype=torch.long),
        "hidden_patches": none,
        "patch_codes": torch.zeros(rows, 0, dtype=torch.long),
    }
    return PretrainBatch(sample_ids=("",) * rows, texts=("",) * rows, step=0, number=0, **(fields | changes))
