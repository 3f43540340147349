"""Counts and distributions of a shard folder, in four bytes a value."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from datamodules.inspect.verify import Verified
from datamodules.inspect.wording import wordings
from datamodules.records import LISTS, Kind
from datamodules.tagged import nouns

SHARES = (0.0, 0.5, 0.9, 1.0)


class Summary(NamedTuple):
    """A distribution in four of its values: so many per cent of all are at most as large."""

    min: float
    median: float
    p90: float
    max: float


class Series:
    """The values of one quantity."""

    def __init__(self) -> None:
        self.values = array("f")  # exact for whole numbers up to 2^24

    def extend(self, values: Iterable[float]) -> None:
        """Append values."""
        self.values.extend(values)

    def summary(self) -> Summary:
        """Return values that occur: of an even number the lower middle one is the median.

        Raises:
            ValueError: There are no values.
        """
        if not self.values:
            raise ValueError("no values to summarise")
        return Summary(*np.quantile(np.asarray(self.values), SHARES, method="inverted_cdf").tolist())


class Statistics:
    """Counts and series of the records that it is given."""

    def __init__(self, kind: Kind, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Start with nothing.

        Args:
            kind: Whose texts are measured; all kinds are counted.
            tokenizer: Counts tokens, special ones left out; without one only words are counted.
        """
        self.kind, self.tokenizer = kind, tokenizer
        self.images = 0
        self.kinds = LISTS if kind in LISTS else (kind,)
        self.samples: Counter[Kind] = Counter({kind: 0 for kind in self.kinds})
        self.boxes = 0
        self.classes: Counter[str] = Counter()  # boxes by name, without those that have none
        self.with_known_boxes = 0  # texts of which it is known which boxes they mention
        self.series: dict[str, Series] = {}

    def add(self, verified: Verified) -> None:
        """Count a record."""
        record = verified.record
        self.images += 1
        for kind in self.kinds:
            self.samples[kind] += len(record.items(kind))
        self.boxes += len(record.boxes)
        self.classes.update(name for name in record.names if name)
        self.with_known_boxes += sum(text.boxes is not None for text in record.texts)
        if verified.sizes:
            self._add_picture(verified)
        self._add_texts(verified)

    def _add_picture(self, verified: Verified) -> None:
        width, height = verified.sizes[0]
        self._extend("image width, px", (size[0] for size in verified.sizes))
        self._extend("image height, px", (size[1] for size in verified.sizes))
        self._extend("image file, kB", [verified.image_bytes / len(verified.sizes) / 1000])
        self._extend("boxes per image", [len(verified.record.boxes)])
        sides = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in verified.record.boxes]
        self._extend("box area, share of the image", (across * down for across, down in sides))
        self._extend("box aspect, width / height", (across * width / (down * height) for across, down in sides))

    def _add_texts(self, verified: Verified) -> None:
        called = nouns(verified.record.names)
        found = [wording for item in verified.record.items(self.kind) for wording in wordings(item, called)]
        for part, text in found:
            self._extend(f"words per {part}", [len(text.split())])
        if self.tokenizer is not None and found:
            encoded = self.tokenizer([text for _, text in found], add_special_tokens=False, verbose=False)
            for (part, _), ids in zip(found, encoded["input_ids"], strict=True):
                self._extend(f"tokens per {part}", [len(ids)])

    def _extend(self, name: str, values: Iterable[float]) -> None:
        self.series.setdefault(name, Series()).extend(values)

    def summaries(self) -> dict[str, Summary]:
        """Return the summary of each quantity that has values, texts first."""
        order = sorted(self.series, key=lambda name: not name.startswith(("words", "tokens")))
        return {name: self.series[name].summary() for name in order if self.series[name].values}
