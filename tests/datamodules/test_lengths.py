"""Texts in few lengths: what is padded, how far, and that nothing that is scored changes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import vcr
from tests.datamodules.shard_factory import pretrain_module
from tests.datamodules.test_base import options
from vle_lightning.batch import IGNORED, Batch
from vle_lightning.tasks.pretrain import PretrainTask


def batches(module: Any) -> list[Any]:  # noqa: ANN401 (data modules of several tasks)
    module.setup("fit")
    return [*module.train_dataloader(), *module.val_dataloader()]


def pretrain(shards: Path, tokenizer_folder: Path, **changes: object) -> list[Any]:
    return batches(pretrain_module(shards, tokenizer_folder, **changes))


def texts_of(batch: Batch, tokens: int) -> dict[str, Tensor]:
    """Return all tensors of a batch that have so many columns."""
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {n: v for n, v in found.items() if isinstance(v, Tensor) and v.dim() > 1 and v.shape[-1] == tokens}


@pytest.mark.parametrize("multiple", [8, 5])
def test_texts_have_a_multiple_of_tokens_but_never_more_than_the_longest(
    shards: Path, tokenizer_folder: Path, multiple: int
) -> None:
    plain = pretrain(shards, tokenizer_folder)
    longest = max(batch.input_ids.shape[1] for batch in plain) + 1
    for before, batch in zip(
        plain, pretrain(shards, tokenizer_folder, text_multiple=multiple, max_text_length=longest), strict=True
    ):
        own, tokens = before.input_ids.shape[1], batch.input_ids.shape[1]
        assert tokens == min(-(-own // multiple) * multiple, longest)
        assert torch.equal(batch.input_ids[:, :own], before.input_ids)
        assert torch.equal(batch.mlm_targets[:, :own], before.mlm_targets)
        assert not batch.attention_mask[:, own:].any()
        assert (batch.mlm_targets[:, own:] == IGNORED).all()
        assert torch.equal(batch.partner, before.partner)
        assert torch.equal(batch.hidden_boxes, before.hidden_boxes)


def test_every_field_of_a_text_is_padded(shards: Path, tokenizer_folder: Path) -> None:
    def make(multiple: int) -> list[Any]:
        return batches(
            vcr.DataModule(mode="q2a", **options(shards, tokenizer_folder, "vcr", text_multiple=multiple))
        ) + pretrain(shards, tokenizer_folder, text_multiple=multiple)

    for before, batch in zip(make(1), make(29), strict=True):  # no other tensor has so many columns
        names = texts_of(before, before.input_ids.shape[-1])
        names = {n: v for n, v in names.items() if v.shape[0] == before.input_ids.shape[0]}
        assert {"input_ids", "attention_mask"} <= texts_of(batch, 29).keys()
        assert texts_of(batch, 29).keys() <= names.keys()
        left = texts_of(batch, before.input_ids.shape[-1]).keys() & {"input_ids", "token_types", "mlm_content"}
        assert not left


def test_losses_are_those_of_shorter_texts(shards: Path, tokenizer_folder: Path) -> None:
    torch.manual_seed(0)
    task = PretrainTask("tiny", classes=2).eval()
    for before, batch in zip(
        pretrain(shards, tokenizer_folder), pretrain(shards, tokenizer_folder, text_multiple=8), strict=True
    ):
        with torch.no_grad():
            expected, found = task.judge(before), task.judge(batch)
        assert found.keys() == expected.keys() == {"mlm", "itm", "mpc", "pbc"}
        for name, output in expected.items():
            torch.testing.assert_close(found[name].loss, output.loss, rtol=1e-5, atol=1e-6, msg=name)


def test_a_multiple_below_one_is_refused(shards: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.text_multiple is 0; it must be at least 1"):
        pretrain_module(shards, tokenizer_folder, text_multiple=0).check()
