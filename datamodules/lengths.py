"""Texts in few lengths: each kernel is compiled, and each CUDA graph captured, for few shapes of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from torch.nn import functional as F
from torch.utils.data import Dataset

from datamodules.sampler import MicroBatch
from vle_lightning.batch import IGNORED, Batch

BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)
FILLS: Mapping[str, int] = {  # what padding holds, of the fields (..., T) beside the token ids
    "attention_mask": False,
    "mlm_targets": IGNORED,
    "mlm_content": False,
    "token_types": 0,
}
IDS = ("input_ids", "masked_input_ids")


class FewLengths(Dataset[BatchT_co], Generic[BatchT_co]):
    """Micro-batches of a data set, whose texts have a multiple of so many tokens, but never more than the longest.

    They are padded when everything is drawn, so that masks and partners are those of the shorter texts.
    """

    def __init__(self, dataset: Dataset[BatchT_co], multiple: int, longest: int, padding: int) -> None:
        """Pad what a data set makes.

        Args:
            dataset: turns a MicroBatch into a batch.
            multiple: of tokens.
            longest: ``data.max_text_length``.
            padding: the token id of padding.
        """
        self.dataset, self.multiple, self.longest = dataset, multiple, longest
        self.fills = {**FILLS, **dict.fromkeys(IDS, padding)}

    def __getitem__(self, which: MicroBatch) -> BatchT_co:
        """Make a micro-batch and pad its texts."""
        batch = self.dataset[which]
        found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        changes: dict[str, Any] = {}
        for name, fill in self.fills.items():
            if name in found:
                tokens = found[name].shape[-1]
                more = min(-(-tokens // self.multiple) * self.multiple, max(self.longest, tokens)) - tokens
                changes[name] = F.pad(found[name], (0, more), value=fill)
        return dataclasses.replace(batch, **changes)
