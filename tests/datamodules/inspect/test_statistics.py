"""Counts and distributions equal what is counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from datamodules.inspect.statistics import Series, Statistics, Summary
from datamodules.inspect.verify import Verified
from datamodules.records import Question, Record, Statement, Text
from tests.datamodules.shard_factory import make_record

FIRST = Record(
    "a",
    boxes=((0.0, 0.0, 0.5, 0.25), (0.25, 0.5, 0.75, 1.0)),  # areas 1/8 and 1/4, of 200 x 100: 100 x 25 and 100 x 50 px
    names=("dog", ""),
    texts=(Text("1", "a dog", (0,)), Text("2", "a small dog  runs", None), Text("3", "dog", ())),
    questions=(Question("4", "what is it?", ("dog",), "other", "what"),),
)
SECOND = Record("b", boxes=((0.0, 0.0, 1.0, 1.0),), names=("dog",), texts=(Text("5", "one two three", None),))
THIRD = Record("c", texts=(Text("6", "x", None),))


def counted() -> Statistics:
    """Return the statistics of three records with 2, 1 and 0 boxes."""
    statistics = Statistics("texts")
    statistics.add(Verified(FIRST, ((200, 100),), 3000))
    statistics.add(Verified(SECOND, ((50, 100),), 1000))
    statistics.add(Verified(THIRD, ((40, 30),), 2000))
    return statistics


def test_counts() -> None:
    found = counted()
    assert (found.images, found.boxes, found.with_known_boxes) == (3, 3, 2)
    assert +found.samples == {"texts": 5, "questions": 1}
    assert found.classes == {"dog": 2}


def test_summaries_are_those_counted_by_hand() -> None:
    assert counted().summaries() == {
        "words per text": Summary(1, 2, 4, 4),  # 1 1 2 3 4
        "image width, px": Summary(40, 50, 200, 200),
        "image height, px": Summary(30, 100, 100, 100),
        "image file, kB": Summary(1, 2, 3, 3),
        "boxes per image": Summary(0, 1, 2, 2),
        "box area, share of the image": Summary(0.125, 0.25, 1, 1),
        "box aspect, width / height": Summary(0.5, 2, 4, 4),  # 50 / 100, 100 / 50, 100 / 25
    }


def test_a_summary_gives_values_that_occur() -> None:
    series = Series()
    series.extend([7, 3, 1, 5])
    assert series.summary() == Summary(1, 3, 7, 7)  # half of four values are at most 3
    twenty = Series()
    twenty.extend(range(20, 0, -1))
    assert twenty.summary() == Summary(1, 10, 18, 20)
    with pytest.raises(ValueError, match="no values"):
        Series().summary()


def test_the_values_take_four_bytes_each() -> None:
    series = Series()
    series.extend(range(10_000))
    assert series.values.itemsize == 4
    assert np.asarray(series.values).nbytes == 40_000


def test_tagged_texts_are_measured_as_models_read_them() -> None:
    statistics = Statistics("vcr")
    record = make_record(0)  # box 0 is called "red circle", box 1 Casey
    statistics.add(Verified(record, ((48, 48),), 1000))
    summaries = statistics.summaries()
    assert summaries["words per question"] == Summary(6, 6, 6, 6)  # what colour is red circle ?
    assert summaries["words per answer choice"] == Summary(4, 4, 4, 4)  # red circle is red
    assert summaries["words per rationale choice"] == Summary(7, 7, 7, 7)  # Casey and red circle are red .
    assert len(statistics.series["words per rationale choice"].values) == 4


def test_tokens_are_counted_without_special_ones(tokenizer: PreTrainedTokenizerBase) -> None:
    statistics = Statistics("texts", tokenizer)
    texts = ("small red circle", "blue square")
    record = dataclasses.replace(THIRD, texts=tuple(Text(str(i), text, None) for i, text in enumerate(texts)))
    statistics.add(Verified(record, ((48, 48),), 1000))
    expected = sorted(len(tokenizer.tokenize(text)) for text in texts)
    found = statistics.summaries()["tokens per text"]
    assert (found.min, found.max) == (expected[0], expected[1])


def test_both_pictures_of_a_pair_count() -> None:
    statistics = Statistics("statements")
    record = Record("p", statements=(Statement("1", "two dogs", "true", ""),))
    statistics.add(Verified(record, ((40, 20), (60, 30)), 5000))
    summaries = statistics.summaries()
    assert statistics.images == 1
    assert summaries["image width, px"] == Summary(40, 40, 60, 60)
    assert summaries["image file, kB"].max == 2.5
    assert summaries["words per statement"].max == 2
    assert "box area, share of the image" not in summaries


def test_statistics_of_nothing_are_empty() -> None:
    assert Statistics("texts").summaries() == {}
