"""Texts whose masked tokens are to be restored: what MLM reads and predicts, on pairs and on texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.masking import mask_tokens
from datamodules.texts import mark_words, tokenise, word_pattern


@dataclass(frozen=True)
class Masking:
    """How tokens are masked and counted, and which share of the patches is hidden."""

    share: float = 0.15
    whole_words: bool = False
    content_words: tuple[str, ...] = ()
    patch_share: float = 0.0


class MaskedTexts(TypedDict):
    """The fields of a batch that hold B texts."""

    input_ids: Tensor
    attention_mask: Tensor
    texts: tuple[str, ...]
    masked_input_ids: Tensor
    mlm_targets: Tensor
    mlm_content: Tensor


class TextMasker:
    """Tokenises the texts of a micro-batch and masks some of their tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, masking: Masking) -> None:
        """Prepare the vocabulary.

        Args:
            tokenizer: with the fast backend.
            max_length: of a text in tokens, special ones included.
            masking: how tokens are masked and counted.
        """
        self.tokenizer, self.max_length, self.masking = tokenizer, max_length, masking
        self.content = word_pattern(masking.content_words)
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)

    def mask(self, texts: Sequence[str], rng: np.random.Generator) -> MaskedTexts:
        """Tokenise B texts, and draw what is masked."""
        tokens = tokenise(self.tokenizer, texts, self.max_length)
        mask_id = self.tokenizer.mask_token_id
        assert isinstance(mask_id, int)
        masked, targets = mask_tokens(
            tokens.ids,
            tokens.special,
            rng,
            mask_id=mask_id,
            ordinary=self.ordinary,
            share=self.masking.share,
            word_starts=tokens.word_starts if self.masking.whole_words else None,
        )
        return {
            "input_ids": tokens.input_ids,
            "attention_mask": tokens.attention_mask,
            "texts": tuple(texts),
            "masked_input_ids": torch.from_numpy(masked),
            "mlm_targets": torch.from_numpy(targets),
            "mlm_content": torch.from_numpy(tokens.spread(mark_words(texts, self.content)) == 1),
        }
