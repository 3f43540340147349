"""Cases of VQA and VCR, and of position tables at other image sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from vle_lightning.batch import VQABatch
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.parity.checks import EXACT, POSITIONS, Check, compare, failure
from vle_lightning.parity.fixtures import Case
from vle_lightning.parity.intermediates import Pass
from vle_lightning.parity.judging import Answer, judge, network_of
from vle_lightning.parity.models import membership, padded, text_mask
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.vcr import Regions, VCRTask
from vle_lightning.tasks.vqa import VQATask


def run_vqa(case: Case) -> Iterator[Check]:
    """VLEForVQA: soft targets from labels and scores; the loss sums over answers and averages over questions."""
    task = VQATask.from_pretrained(case.folder.path, case.content.get("image_size_after"))  # resizes the positions
    network = network_of(task)
    inputs, arguments = case.group("input"), case.arguments
    rows = len(inputs["input_ids"])

    answers = int(task.options["answers"])
    task.labels = [str(number) for number in range(answers)]  # the cases give numbers, and ask for no names

    def answer() -> Answer:
        batch = VQABatch(
            sample_ids=("",) * rows,
            valid=torch.ones(rows, dtype=torch.bool),
            step=0,
            number=0,
            pixel_values=inputs["pixel_values"],
            input_ids=inputs["input_ids"],
            attention_mask=text_mask(case),
            texts=("",) * rows,
            targets=soft_targets(arguments.get("vqa_labels", []), arguments.get("vqa_scores", []), (rows, answers)),
            question_ids=("",) * rows,
            answers=(("",),) * rows,  # not hidden: the loss is taken over all questions
            answer_types=("",) * rows,
            question_types=("",) * rows,
        )
        logits = task(batch)
        return Answer({"logits": logits}, partial(task.step, batch, Stage.VAL) if case.has_loss else None)

    yield from judge(case, network, Pass(text_mask(case)), answer)


def soft_targets(labels: list[list[int]], scores: list[list[float]], shape: tuple[int, int]) -> Tensor:
    """Lay the scores of the right answers out over all answers: (B, C)."""
    targets = torch.zeros(shape)
    for row, (numbers, values) in enumerate(zip(labels, scores, strict=True)):
        targets[row, numbers] = torch.tensor(values)
    return targets


def run_vcr(mode: Literal["q2a", "qa2r"], case: Case) -> Iterator[Check]:
    """VLEForVCRQ2A and VLEForVCRQA2R: four choices a question, the image encoded once for all of them."""
    task = VCRTask.from_pretrained(case.folder.path, mode=mode)
    network, encoder = network_of(task), task.model
    pixels, arguments = case.group("input")["pixel_values"], case.arguments
    input_ids, mask = choices(case, "input_ids"), choices(case, "attention_mask").bool()
    height, width = encoder.layout.grid(pixels)
    tagged = list(zip(arguments["patch_ids"], arguments["extend_token_type_ids"], strict=True))  # choice by choice

    def answer() -> Answer:
        text = encoder.encode_text(input_ids.flatten(0, 1), mask.flatten(0, 1))
        regions = Regions(
            by_choice([membership(boxes, height * width) for boxes, _ in tagged]),
            by_choice([padded([[1] * len(row) for row in boxes]).bool() for boxes, _ in tagged]),
            by_choice([padded(image_types) for _, (image_types, _) in tagged]),
        )
        text_types = by_choice([padded(types, input_ids.shape[-1]) for _, (_, types) in tagged])
        logits = task.score_choices(text, encoder.encode_image(pixels), regions, text_types)
        loss = partial(F.cross_entropy, logits, torch.tensor(arguments.get("vcr_labels", ()), dtype=torch.long))
        return Answer({"logits": logits}, loss if case.has_loss else None)

    yield from judge(case, network, Pass(mask), answer)


def choices(case: Case, name: str) -> Tensor:
    """Gather an argument that is given choice by choice: (B, C, T)."""
    parts = [
        (int(key.split(".")[1]), value) for key, value in case.group("input").items() if key.startswith(f"{name}.")
    ]
    return by_choice([value for _, value in sorted(parts, key=lambda part: part[0])])


def by_choice(parts: list[Tensor]) -> Tensor:
    """Stack C tensors (B, N, ...) to (B, C, N, ...), with zeros up to the longest N."""
    return pad_sequence([part.transpose(0, 1) for part in parts]).permute(2, 1, 0, *range(3, parts[0].dim() + 1))


POSITION_TABLE = re.compile(r"position_(embedding|ids)\.after_(\d+)")


def run_positions(case: Case) -> Iterator[Check]:
    """extend_position_embedding: the table, and the numbers of its rows, at other image sizes."""
    before, patch = case.group("input")["position_embedding.before"], case.content["patch_size"]
    for name, reference in case.group("output").items():
        match = POSITION_TABLE.fullmatch(name)
        if match is None:
            yield failure(f"output.{name}", "unknown: neither a position table nor its numbers")
            continue
        side = int(match[2]) // patch
        table = resize_position_table(before, (side, side))
        ours, bound = {"embedding": (table, POSITIONS), "ids": (torch.arange(len(table))[None], EXACT)}[match[1]]
        yield compare(f"output.{name}", ours, reference, bound)
