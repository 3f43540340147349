"""The official scores and files of VQA and VCR."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.factories import ANSWER_NAMES, ANSWERS, dual, vcr_batch, vqa_batch
from vle_lightning.batch import IGNORED, VCRBatch
from vle_lightning.errors import UserError
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask


@pytest.fixture(autouse=True)
def without_trainer() -> Iterator[None]:
    with patch.object(VisionLanguageTask, "log"):
        yield


def always(number: int) -> VQATask:
    """Make a task that answers with one number, whatever is asked."""
    task = VQATask("tiny", answers=ANSWERS).eval()
    last = task.head.get_submodule("3")
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(F.one_hot(torch.tensor(number), ANSWERS))
    task.labels = list(ANSWER_NAMES)
    return task


def test_questions_are_judged_by_what_the_annotators_said() -> None:
    task = always(0)
    batch = replace(
        vqa_batch(rows=4),
        answers=(
            ("answer 0",) * 10,  # 1
            ("Answer 0.", "the answer 0", "other") + ("?",) * 7,  # two after normalisation: 0.6
            ("answer 0",),  # the only one: 1
            ("answer 1",) * 10,  # 0
        ),
        answer_types=("yes/no", "other", "Yes/No", ""),
        question_types=("what is", "is it", "", "what is"),
    )
    task.step(batch, Stage.VAL)
    task.step(batch, Stage.VAL)  # again: each counts once
    assert task.split_scores(Stage.VAL) == pytest.approx(
        {
            "vqa_accuracy": 0.65,
            "vqa_accuracy_other": 0.6,
            "vqa_accuracy_yes_no": 1.0,
            "vqa_accuracy_question_is_it": 0.6,
            "vqa_accuracy_question_what_is": 0.5,
        }
    )
    assert torch.tensor(task.split_scores(Stage.VAL)["vqa_accuracy"]).isnan()  # forgotten
    assert torch.tensor(task.split_scores(Stage.TEST)["vqa_accuracy"]).isnan()


def test_fillers_and_questions_without_answers_reach_neither_loss_nor_score() -> None:
    task = always(0)
    batch = vqa_batch(rows=4)  # the right answers are 0, 1, 2, 3
    hidden = replace(batch, answers=(*batch.answers[:2], (), ()))
    loss = task.step(hidden, Stage.TEST)
    logits = task(batch)[:2]
    losses = F.binary_cross_entropy_with_logits(logits, batch.targets[:2], reduction="none").sum(1)
    torch.testing.assert_close(loss, losses.mean())
    assert task.split_scores(Stage.TEST)["vqa_accuracy"] == 0.5
    task.step(replace(batch, valid=torch.tensor([True, False, False, False])), Stage.TEST)
    assert task.split_scores(Stage.TEST)["vqa_accuracy"] == 1.0
    nothing = task.step(replace(batch, answers=((),) * 4), Stage.TEST)
    assert nothing.item() == 0.0


def test_without_names_there_is_no_official_score() -> None:
    task = VQATask("tiny", answers=ANSWERS)
    with pytest.raises(UserError, match=r"no names for its 7 answers: set task\.labels"):
        task.step(vqa_batch(), Stage.VAL)
    task.step(vqa_batch(), Stage.TRAIN)
    task.labels = ["yes"]
    with pytest.raises(UserError, match="1 names for its 7 answers"):
        task.predict_step(vqa_batch())


def test_a_submission_has_each_question_once_in_order() -> None:
    task = always(2)
    batch = replace(vqa_batch(rows=3), question_ids=("262148000", "q-7", "007"))
    rows = task.predict_step(batch)
    assert rows[0] == {
        "id": "question/0",
        "question_id": "262148000",
        "prediction": 2,
        "answer": "answer 2",
        "probability": pytest.approx(torch.tensor(1.0).sigmoid().item()),
    }
    (name, content), *others = task.official_files([*rows, {**rows[1], "id": "question/9"}]).items()
    assert (name, others) == ("vqa_submission.json", [])
    assert json.loads(content) == [
        {"question_id": 262148000, "answer": "answer 2"},
        {"question_id": "q-7", "answer": "answer 2"},
        {"question_id": "007", "answer": "answer 2"},
    ]
    with pytest.raises(UserError, match="question q-7 is answered twice, 'answer 2' and 'answer 3'"):
        task.official_files([*rows, {**rows[1], "answer": "answer 3"}])


def under_all_conditions(batch: VCRBatch, right: list[int]) -> VCRBatch:
    """Give each question of four choices as one of sixteen; those of its ``right`` answer are the four."""
    others = vcr_batch(len(batch), seed=1)
    fields = ("input_ids", "attention_mask", "token_types", "regions", "region_valid", "region_types")
    parts: dict[str, Any] = {
        name: torch.stack(
            [
                torch.cat([getattr(batch if answer == right[row] else others, name)[row] for answer in range(4)])
                for row in range(len(batch))
            ]
        )
        for name in fields
    }
    return replace(batch, **parts, targets=torch.tensor(right) * 4 + batch.targets)


def test_rationales_given_each_answer_score_as_those_of_the_right_one() -> None:
    task = VCRTask("tiny", mode="qa2r").eval()
    batch = vcr_batch(rows=3)
    sixteen = under_all_conditions(batch, [2, 0, 3])
    encoder = dual(task.model).image
    with patch.object(encoder, "forward", wraps=encoder.forward) as image:
        loss = task.step(sixteen, Stage.VAL)
    assert [len(call.args[0]) for call in image.call_args_list] == [3]  # each image once
    torch.testing.assert_close(loss, task.step(batch, Stage.TRAIN))
    four, each = task.predict_step(batch), task.predict_step(sixteen)
    for row, answer in enumerate([2, 0, 3]):
        assert {**each[row], "probabilities": None} == {**four[row], "probabilities": None}
        torch.testing.assert_close(
            torch.tensor(each[row]["probabilities"])[answer], torch.tensor(four[row]["probabilities"])
        )
    torch.testing.assert_close(torch.tensor([row["probabilities"] for row in each]).sum(2), torch.ones(3, 4))


def test_a_hidden_answer_leaves_the_probabilities_alone() -> None:
    task = VCRTask("tiny", mode="qa2r").eval()
    sixteen = replace(under_all_conditions(vcr_batch(rows=2), [1, 1]), targets=torch.tensor([IGNORED, 6]))
    hidden, known = task.predict_step(sixteen)
    assert (hidden["prediction"], hidden["target"], hidden["question_id"]) == (None, None, "val-0")
    assert known["target"] == 2
    task.step(sixteen, Stage.VAL)
    assert task.get_submodule("_scores.val.qa2r").total == 1


def test_a_hidden_answer_to_q2a_is_predicted() -> None:
    task = VCRTask("tiny", mode="q2a").eval()
    batch = vcr_batch(rows=2)
    (row, _) = task.predict_step(replace(batch, targets=torch.tensor([IGNORED, 0])))
    assert (row["prediction"], row["target"]) == (int(task(batch)[0].argmax()), None)
