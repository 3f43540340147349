"""What docs/vcr_processing.md says of both conversions: the same form, and where they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.dataset import BatchHead
from datamodules.records import VCRItem
from datamodules.vcr import VCRBuilder
from tests.inference.test_vcr_compatible import MODES, annotate, lengths, run, word_tokenizer
from vle_lightning.batch import VCRBatch
from vle_lightning.inference.vcr_layout import Mode, read_annotation
from vle_lightning.inference.vcr_texts import MAX_LENGTH


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return word_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def default(annotation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, task: Mode) -> VCRBatch:
    """Convert as training does, all objects in view."""
    read = read_annotation(annotation, task)
    item = VCRItem("", *read[1:], "")
    objects = len(read.objects)
    builder = VCRBuilder(tokenizer, MAX_LENGTH, task)
    sample = builder.read(item, read.objects, np.zeros((objects, 4), np.float32), np.ones(objects, np.bool_), "")
    known = torch.ones(1, dtype=torch.bool)
    head = BatchHead(sample_ids=("",), valid=known, step=0, number=0, skipped=(), pixel_values=torch.zeros(1, 3, 8, 8))
    return builder.collate(head, [sample], np.random.default_rng())


@pytest.mark.parametrize("task", MODES)
def test_without_defects_the_default_gives_the_same_ids_and_types(
    tokenizer: PreTrainedTokenizerBase, task: Mode
) -> None:
    answers: list[list[Any]] = [["near", [0], "."], [[2, 3], "is", "red"], ["dog"], ["?", [1]]]
    rationales = [[[1], "is", [4], "."], ["red"], ["green", "."], [[0, 5]]]
    annotation = annotate(["where", "is", [1, 2], "?"], answers, rationale_choices=rationales, rationale_label=0)
    inputs, batch = run(annotation, tokenizer, task), default(annotation, tokenizer, task)
    length = batch.input_ids.shape[-1]
    assert torch.equal(batch.input_ids[0], inputs.input_ids[:, :length])
    assert torch.equal(batch.attention_mask[0], inputs.attention_mask[:, :length])
    for choice, (mentions, regions) in enumerate(zip(inputs.text_types, inputs.region_types, strict=True)):
        assert batch.token_types[0, choice, : len(mentions)].tolist() == mentions
        assert batch.region_types[0, choice, : len(regions)].tolist() == regions


@pytest.mark.parametrize(("given", "choice", "kept"), [(50, 60, 38), (60, 50, 39), (60, 60, 38), (50, 5, 50)])
def test_both_keep_the_longer_side_but_differ_in_the_odd_token(
    tokenizer: PreTrainedTokenizerBase, given: int, choice: int, kept: int
) -> None:
    annotation = annotate(["blue"] * given, [["red"] * choice])
    ids = default(annotation, tokenizer, "q2a").input_ids[0, 0].tolist()
    assert ids.index(tokenizer.sep_token_id) - 1 == kept  # of 80 less CLS and two SEP, 77
    assert lengths(run(annotation, tokenizer))[0][0] == min(given, 39 if choice > 38 else 72)


def test_the_default_keeps_the_region_of_a_tag_that_truncation_cut_off(tokenizer: PreTrainedTokenizerBase) -> None:
    cut = annotate(["where", [0], "?"], [["red"] * 90 + [[1]]])
    assert default(cut, tokenizer, "q2a").region_types[0, 0].tolist() == [2, 3]
    assert run(cut, tokenizer).region_types[0] == [2]
