"""Questions and the credit of their answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.dataset import BatchHead
from datamodules.shards import RawSample, SampleError
from datamodules.transforms import View
from datamodules.vqa import VQABuilder, VQADataModule
from tests.datamodules.shard_factory import make_record
from vle_lightning.batch import Skip

WHOLE = View(48, 48, 0, 0, 48, 48)


def test_credit_is_three_tenths_an_annotator_up_to_one(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = VQABuilder(tokenizer, 30, ["yes", "no", "2", "red"])
    credit = builder.credits(["yes"] * 4 + ["no"] * 3 + ["2"] * 2 + ["unheard of"])
    np.testing.assert_allclose(credit, [1.0, 0.9, 0.6, 0.0])
    assert not builder.credits([]).any()


def test_the_only_annotator_is_believed(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = VQABuilder(tokenizer, 30, ["yes", "no"])
    assert builder.credits(["no"]).tolist() == [0.0, 1.0]
    assert not builder.credits(["maybe"]).any()


def test_a_batch_holds_the_questions(tokenizer: PreTrainedTokenizerBase) -> None:
    builder = VQABuilder(tokenizer, 30, ["red", "green", "no"])
    raws = [RawSample("x", b"", make_record(i), 0, "") for i in range(3)]
    head = BatchHead(("x",) * 3, torch.ones(3, dtype=torch.bool), 0, 0, (), torch.zeros(3, 3, 8, 8))
    samples = [builder.parse(raw, WHOLE) for raw in raws]
    batch = builder.collate(head, samples, np.random.default_rng(0))
    torch.testing.assert_close(batch.targets, torch.tensor([[0.9, 0, 0.3], [0, 0.9, 0.3], [0, 0, 0.3]]))
    assert batch.texts[0] == "what colour is the circle"
    assert tokenizer.decode(batch.input_ids[1], skip_special_tokens=True) == "what colour is the square"
    assert batch.question_ids == ("0", "1", "2")
    assert batch.answers[2] == ("blue", "blue", "blue", "no")
    assert batch.answer_types == ("other",) * 3
    assert batch.question_types == ("what",) * 3
    assert batch.skipped == ()
    assert "red" in list(builder.words(raws[0]))


def test_questions_whose_answers_are_all_outside_the_list_stay_and_are_counted(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    builder = VQABuilder(tokenizer, 30, ["red"])
    hidden = replace(make_record(0), questions=(replace(make_record(0).questions[0], answers=()),))
    records = [make_record(0), make_record(1), hidden, make_record(2)]  # red, green, nothing, blue
    raws = [RawSample(f"x/{i}", b"", record, 0, "000000.tar") for i, record in enumerate(records)]
    valid = torch.tensor([True, True, True, False])
    head = BatchHead(("x",) * 4, valid, 0, 0, (Skip("unreadable image", "here"),), torch.zeros(4, 3, 8, 8))
    batch = builder.collate(head, [builder.parse(raw, WHOLE) for raw in raws], np.random.default_rng(0))
    assert batch.skipped == (
        Skip("unreadable image", "here"),
        Skip("answer outside data.answers", "000000.tar (x/1): 'green'", lost=False),  # fillers are not counted
    )
    assert batch.targets[:, 0].tolist() == pytest.approx([0.9, 0, 0, 0])


def test_an_empty_question_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    record = make_record(0)
    record = replace(record, questions=(replace(record.questions[0], question=" "),))
    with pytest.raises(SampleError, match="empty text"):
        VQABuilder(tokenizer, 30, ["red"]).parse(RawSample("x", b"", record, 0, "shard"), WHOLE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        ("[", "is not JSON"),
        ("{}", "must be a JSON list"),
        ("[]", "must be a JSON list"),
        ("[1]", "must be a JSON list"),
        ('["a", "a"]', "'a' occurs twice"),
    ],
)
def test_bad_answers_name_the_file(shards: Path, tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "answers.json"
    if content is not None:
        path.write_text(content)
    module = VQADataModule(answers=path, root=shards, sources={"questions": 1.0}, tokenizer="x/y")
    with pytest.raises((ValueError, FileNotFoundError), match=rf"data\.answers .*answers\.json.*{told}"):
        module.check()
