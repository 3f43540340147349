"""Texts to token ids, a whole micro-batch in one call, with what character spans say about tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

SIDES = re.compile(r"\b(?:left|right)", re.IGNORECASE)  # words that a horizontal flip makes false


class Tokens(NamedTuple):
    """N tokenised texts (or pairs of texts), padded to the longest of them."""

    ids: Ints  # (N, T)
    attention: Bools  # (N, T); False on padding
    special: Bools  # (N, T); True on CLS, SEP and padding
    second: Bools  # (N, T); True on the tokens of a pair's second text
    last: Ints  # (N, T): number of the token's last character in its text; 0 on special tokens
    word: Ints  # (N, T): number of the token's word in its text; -1 on special tokens

    @property
    def input_ids(self) -> Tensor:
        """Return the ids (N, T) int64 for a batch."""
        return torch.from_numpy(self.ids)

    @property
    def attention_mask(self) -> Tensor:
        """Return the mask (N, T) bool for a batch."""
        return torch.from_numpy(self.attention)

    @property
    def word_starts(self) -> Bools:
        """Return (N, T), True on the first token of each word."""
        starts: Bools = (np.diff(self.word, axis=1, prepend=-1) != 0) & ~self.special
        return starts

    def spread(self, characters: NDArray[np.int64]) -> Ints:
        """Carry a value per character over to the tokens.

        Args:
            characters: (N, L) value of each character of each text; 0 means nothing.

        Returns:
            (N, T): the value of each token's last character; 0 on special tokens.
        """
        inside = np.minimum(self.last, characters.shape[1] - 1)
        values: Ints = np.where(self.special, 0, np.take_along_axis(characters, inside, axis=1))
        return values


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    pairs: Sequence[str] | None = None,
) -> Tokens:
    """Tokenise N texts, or pairs of texts, with the tokenizer's special tokens.

    What does not fit is cut from the end; of a pair, token by token from the end of the longer text.

    Args:
        tokenizer: with the fast backend (character offsets are needed).
        texts: N texts; the first ones of the pairs.
        max_length: in tokens, special ones included.
        pairs: N second texts.
    """
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        padding=True,
        truncation=True,
        max_length=max_length,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_tensors="np",
    )
    special = encoded["special_tokens_mask"].astype(bool) | ~encoded["attention_mask"].astype(bool)
    rows = encoded.encodings or ()
    sequence = np.array([row.sequence_ids for row in rows], dtype=np.float64)  # None becomes NaN
    word = np.array([row.word_ids for row in rows], dtype=np.float64)
    return Tokens(
        ids=encoded["input_ids"].astype(np.int64),
        attention=encoded["attention_mask"].astype(bool),
        special=special,
        second=sequence == 1,
        last=np.maximum(encoded["offset_mapping"][..., 1].astype(np.int64) - 1, 0),
        word=np.where(special, -1, np.nan_to_num(word, nan=-1)).astype(np.int64),
    )


def word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that finds whole words of a list, in any case; an empty list finds nothing."""
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)" if alternatives else r"(?!)", re.IGNORECASE)


def mark_words(texts: Sequence[str], pattern: re.Pattern[str]) -> Ints:
    """Return (N, L) int64: 1 on the characters of words that the pattern finds; L is the longest text's."""
    spans = [[(*match.span(), 1) for match in pattern.finditer(text)] for text in texts]
    return mark_spans(spans, max(map(len, texts)))


def mark_spans(spans: Sequence[Iterable[tuple[int, int, int]]], length: int) -> Ints:
    """Return (N, L) int64: on each text's characters the value of their (start, end, value) span, else 0."""
    characters = np.zeros((len(spans), max(length, 1)), dtype=np.int64)
    for row, found in enumerate(spans):
        for start, end, value in found:
            characters[row, start:end] = value
    return characters
