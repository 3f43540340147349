"""Pre-training batches: texts, masks, boxes and classes of the right samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.classes import read_classes
from datamodules.dataset import BatchHead
from datamodules.masked_texts import Masking
from datamodules.pretrain import PretrainBuilder
from datamodules.records import Box, Record, Text
from datamodules.shards import RawSample, SampleError
from datamodules.transforms import View
from tests.datamodules.shard_factory import make_record
from vle_lightning.batch import IGNORED, PretrainBatch

WHOLE = View(48, 48, 0, 0, 48, 48)
CLASSES = {"red circle": 0, "green square": 1, "person": 2}
CONTENT = Masking(content_words=("red", "circle"))


@pytest.fixture
def builder(tokenizer: PreTrainedTokenizerBase) -> PretrainBuilder:
    return PretrainBuilder(tokenizer, 30, (6, 6), CLASSES, CONTENT)


def raw(record: Record, item: int = 0) -> RawSample:
    return RawSample("id", b"", record, item, "train/000000.tar, sample 0")


def collate(builder: PretrainBuilder, raws: list[RawSample], view: View = WHOLE, seed: int = 0) -> PretrainBatch:
    count = len(raws)
    valid = torch.ones(count, dtype=torch.bool)
    head = BatchHead(tuple(map(str, range(count))), valid, 0, 0, (), torch.zeros(count, 3, 48, 48))
    return builder.collate(head, [builder.parse(sample, view) for sample in raws], np.random.default_rng(seed))


def test_a_batch_holds_the_samples(builder: PretrainBuilder, tokenizer: PreTrainedTokenizerBase) -> None:
    batch = collate(builder, [raw(make_record(0)), raw(make_record(0), 1), raw(make_record(1))])
    assert batch.texts == ("small red circle", "red circle above large cross", "small green square")
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == list(batch.texts)
    assert batch.input_ids.shape[1] == batch.attention_mask.sum(1).max()  # padded to the longest
    assert batch.box_valid.all()
    assert batch.box_mentioned.tolist() == [[True, False, False], [False] * 3, [True, False, False]]
    torch.testing.assert_close(batch.boxes[2].double(), torch.tensor(make_record(1).boxes, dtype=torch.float64))
    assert batch.hidden_classes.shape == (3, 1)  # of two boxes with a class one is hidden
    for row, classes in enumerate(([0, 2], [0, 2], [1, 2])):
        box = classes.index(int(batch.hidden_classes[row, 0]))
        assert torch.equal(batch.hidden_boxes[row, 0], batch.boxes[row, box])


def test_masks_stay_off_special_tokens_and_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = PretrainBuilder(tokenizer, 30, (6, 6), CLASSES, Masking(share=1.0))
    batch = collate(builder, [raw(make_record(0)), raw(make_record(0), 1)])
    special = torch.isin(batch.input_ids, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(batch.mlm_targets == IGNORED, special)
    assert torch.equal(batch.masked_input_ids[special], batch.input_ids[special])
    assert torch.equal(batch.mlm_targets[~special], batch.input_ids[~special])


def test_content_tokens_are_those_of_the_listed_words(
    builder: PretrainBuilder, tokenizer: PreTrainedTokenizerBase
) -> None:
    record = replace(make_record(0), texts=(Text("0", "small Red circle above large cross", None),))
    batch = collate(builder, [raw(make_record(0), 1), raw(record)])
    marked = batch.input_ids[0][batch.mlm_content[0]]
    assert tokenizer.decode(marked) == "red circle"
    assert not (batch.mlm_content & ~batch.attention_mask).any()
    assert batch.mlm_content[1].any()  # in any case


def test_part_of_a_word_is_no_content_word(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = PretrainBuilder(tokenizer, 30, (6, 6), {}, Masking(content_words=("re", "circl")))
    assert not collate(builder, [raw(make_record(0))]).mlm_content.any()


def test_whole_words_are_masked_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    record = replace(make_record(0), texts=(Text("0", "smallred crosscircle abovelarge " * 3, None),))
    builder = PretrainBuilder(tokenizer, 200, (6, 6), {}, Masking(share=0.5, whole_words=True))
    batch = collate(builder, [raw(record)] * 8)
    pieces = tokenizer.convert_ids_to_tokens(batch.input_ids[0].tolist())
    starts = np.cumsum([piece.startswith("\u2581") for piece in pieces])
    inner = ~torch.isin(batch.input_ids[0], torch.tensor(tokenizer.all_special_ids)).numpy()
    assert len(set(starts[inner])) == 9 < inner.sum()
    for row in range(8):
        chosen = (batch.mlm_targets[row] != IGNORED).numpy()
        assert all(len(set(chosen[inner & (starts == word)])) == 1 for word in set(starts[inner]))


def test_boxes_follow_the_crop(builder: PretrainBuilder) -> None:
    batch = collate(builder, [raw(make_record(0)), raw(make_record(1))], View(48, 48, 24, 24, 48, 48))
    assert batch.boxes[0].tolist() == [[0.0, 0.0, 1.0, 1.0]]  # of three boxes, the one in the lower right
    assert batch.hidden_classes.tolist() == [[-1], [-1]]  # it is all that one sees: more than half is never hidden
    assert not batch.box_mentioned.any()


def test_an_image_without_boxes_has_empty_slots(builder: PretrainBuilder) -> None:
    bare = Record("toy/9", texts=(Text("9", "red circle", None),))
    batch = collate(builder, [raw(bare)])
    assert batch.boxes.shape == (1, 1, 4)
    assert not batch.box_valid.any()
    assert batch.hidden_classes.tolist() == [[-1]]
    both = collate(builder, [raw(bare), raw(make_record(0))])
    assert both.box_valid.sum(1).tolist() == [0, 3]


def test_equal_generators_give_equal_batches(builder: PretrainBuilder) -> None:
    raws = [raw(make_record(i % 5), i % 2) for i in range(10)]
    one, same, other = (collate(builder, raws, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.masked_input_ids, same.masked_input_ids)
    assert torch.equal(one.partner, same.partner)
    assert not torch.equal(one.masked_input_ids, other.masked_input_ids)
    assert not torch.equal(one.partner, other.partner)


OUTSIDE: Box = (0.5, 0.5, 1.2, 0.9)
FLAT: Box = (0.5, 0.5, 0.5, 0.9)
UNKNOWN: Box = (0.5, float("nan"), 0.9, 0.9)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"texts": (Text("0", " ", None),)}, "empty text"),
        ({"texts": (Text("0", "red circle", (3,)),)}, "bad mention"),
        ({"boxes": (OUTSIDE,), "names": ("x",)}, "bad box"),
        ({"boxes": (FLAT,), "names": ("x",)}, "bad box"),
        ({"boxes": (UNKNOWN,), "names": ("x",)}, "bad box"),
        ({"names": ("x",)}, "bad box"),
    ],
)
def test_defects_are_named(builder: PretrainBuilder, fields: dict[str, object], kind: str) -> None:
    with pytest.raises(SampleError) as error:
        builder.parse(raw(replace(make_record(0), **fields)), WHOLE)  # type: ignore[arg-type]
    assert error.value.kind == kind
    assert "train/000000.tar" in error.value.where


def test_classes_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    assert read_classes(None) == {}
    assert read_classes(["a", "b"]) == {"a": 0, "b": 1}
    path.write_text('["b", "a"]')
    assert read_classes(str(path), 2) == {"b": 0, "a": 1}
    path.write_text('{"bike": 3, "bicycle": 3, "car": 0}')
    assert read_classes(str(path), 4) == {"bike": 3, "bicycle": 3, "car": 0}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('["a", "b", "a"]', "'a' occurs twice"),
        ('{"a": 0, "b": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": -1}', "'a' has number -1"),
        ('{"a": true}', "'a' has number True"),
        ('{"a": 1.0}', r"'a' has number 1\.0"),
        ('{"a": 5}', "below the model's 5 classes"),
        ('["a", 3]', "3 is not a name"),
        ('"a"', "must be a JSON list"),
        ("[", "is not JSON"),
    ],
)
def test_bad_classes_name_the_file(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"data\.classes .*classes\.json.*{told}"):
        read_classes(str(path), 5)


def test_a_missing_class_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such file"):
        read_classes(str(tmp_path / "nowhere.json"))
