"""SNLI-VE, NLVR and NLVR2: what is encoded, what counts, what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.factories import dual, statement_batch
from vle_lightning.batch import IGNORED, DataFacts
from vle_lightning.errors import UserError
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.nlvr import NLVRTask
from vle_lightning.tasks.nlvr2 import NLVR2Task
from vle_lightning.tasks.snli_ve import SNLIVETask
from vle_lightning.tasks.statements import StatementTask


@pytest.fixture(autouse=True)
def without_trainer() -> Iterator[None]:
    torch.manual_seed(0)
    with patch.object(VisionLanguageTask, "log"):
        yield


def test_a_text_is_encoded_once_for_both_of_its_images() -> None:
    task = NLVR2Task("tiny").eval()
    batch = statement_batch(rows=3, images=2)
    model = dual(task.model)
    with (
        patch.object(model.text, "forward", wraps=model.text.forward) as text,
        patch.object(model.image, "forward", wraps=model.image.forward) as image,
    ):
        logits = task(batch)
    assert logits.shape == (3, 2)
    assert [len(call.args[0]) for call in text.call_args_list] == [3]
    assert [len(call.args[0]) for call in image.call_args_list] == [6]


def test_nlvr2_is_two_passes_of_one_pair_with_types_of_their_own() -> None:
    task = NLVR2Task("tiny").eval()
    torch.nn.init.normal_(task.model.token_types.weight)
    batch = statement_batch(rows=3, images=2)
    text = task.model.encode_text(batch.input_ids, batch.attention_mask)
    sides = []
    for side, number in ((0, 1), (1, 2)):
        image = task.model.encode_image(batch.pixel_values[:, side])
        sides.append(task.model.fuse(text, image, image_types=torch.full(image.mask.shape, number)).pooled)
    torch.testing.assert_close(task(batch), task.head(torch.cat(sides, dim=1)))


def test_the_third_token_type_starts_from_the_second_and_stays_once_trained(tmp_path: Path) -> None:
    types = NLVR2Task("tiny").model.token_types.weight
    assert torch.equal(types[2], types[1])
    trained = NLVR2Task("tiny")
    torch.nn.init.normal_(trained.model.token_types.weight)
    trained.save_pretrained(tmp_path / "nlvr2")
    assert torch.equal(
        NLVR2Task("tiny", init=str(tmp_path / "nlvr2")).model.token_types.weight, trained.model.token_types.weight
    )
    other = SNLIVETask("tiny")
    other.save_pretrained(tmp_path / "snli_ve")
    types = NLVR2Task("tiny", init=str(tmp_path / "snli_ve")).model.token_types.weight
    assert torch.equal(types[2], other.model.token_types.weight[1])
    assert torch.equal(types[3], other.model.token_types.weight[3])


@pytest.mark.parametrize(("make", "images", "classes"), [(SNLIVETask, 1, 3), (NLVRTask, 1, 2), (NLVR2Task, 2, 2)])
def test_a_task_comes_back_from_its_folder(
    make: Callable[[str], StatementTask], images: int, classes: int, tmp_path: Path
) -> None:
    task = make("tiny").eval()
    task.save_pretrained(tmp_path)
    batch = statement_batch(rows=2, images=images, classes=classes)
    again = type(task).from_pretrained(tmp_path).eval()
    assert again.classes == task.classes
    torch.testing.assert_close(again(batch), task(batch))


def test_scores_are_of_known_valid_statements_and_of_whole_groups() -> None:
    task = NLVRTask("tiny")
    batch = statement_batch(rows=8)
    batch = replace(
        batch,
        targets=torch.tensor([0, 1, 0, 1, 0, 1, IGNORED, 0]),
        groups=("a", "a", "b", "b", "", "c", "c", "c"),
        valid=torch.tensor([True] * 7 + [False]),
    )
    guesses = torch.tensor([0, 1, 0, 0, 0, 1, 0, 1])
    logits = torch.nn.functional.one_hot(guesses, 2).float() * 9
    with patch.object(NLVRTask, "forward", return_value=logits):
        for _ in range(2):  # the second time as from a sampler that repeats samples
            task.step(batch, Stage.VAL)
        scores = task.split_scores(Stage.VAL)
    assert scores == {  # right: rows 0, 1, 2, 4, 5 of 0 to 5; groups a and c wholly so, b not
        "accuracy": pytest.approx(5 / 6),
        "accuracy_true": 1.0,
        "accuracy_false": pytest.approx(2 / 3),
        "consistency": pytest.approx(2 / 3),
    }
    assert task.confusion == [[3, 0], [1, 2]]
    assert task.split_scores(Stage.VAL)["accuracy"] != scores["accuracy"]  # nothing is left for the next time


def test_the_loss_leaves_out_hidden_and_filler_rows() -> None:
    task = SNLIVETask("tiny").eval()
    batch = statement_batch(rows=4, classes=3)
    hidden = replace(
        batch,
        targets=torch.tensor([batch.targets[0], IGNORED, batch.targets[2], 1]),
        valid=torch.tensor([True, True, True, False]),
    )
    logits = task(batch)
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], batch.targets[[0, 2]])
    torch.testing.assert_close(task.step(hidden, Stage.VAL), expected)
    nothing = replace(batch, targets=torch.full((4,), IGNORED))
    task.step(nothing, Stage.TRAIN).backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in task.parameters() if p.grad is not None)


def test_predictions_name_statement_class_and_truth() -> None:
    task = SNLIVETask("tiny").eval()
    batch = replace(
        statement_batch(rows=3, classes=3),
        targets=torch.tensor([2, IGNORED, 1]),
        valid=torch.tensor([True, True, False]),
    )
    rows = task.predict_step(batch)
    assert [(row["id"], row["statement_id"], row["target"]) for row in rows] == [
        ("image/0/s0", "s0", 2),
        ("image/1/s1", "s1", None),
    ]
    for row in rows:
        shares = row["probabilities"]
        assert isinstance(shares, list)
        assert sum(shares) == pytest.approx(1)
        assert row["class"] == SNLIVETask.CLASSES[shares.index(max(shares))]


def test_the_files_of_the_leaderboards() -> None:
    rows = [
        {"id": "nlvr2/dev-850-0/dev-850-0-1", "statement_id": "dev-850-0-1", "class": "true"},
        {"id": "nlvr2/dev-9-2/dev-9-2-0", "statement_id": "dev-9-2-0", "class": "false"},
    ]
    assert NLVR2Task("tiny").official_files(rows) == {"predictions.csv": "dev-850-0-1,true\ndev-9-2-0,false\n"}
    drawings = [{"id": "nlvr/dev-72-1-4/72-1-4", "statement_id": "72-1-4", "class": "true"}]
    assert NLVRTask("tiny").official_files(drawings) == {"predictions.csv": "dev-72-1-4.png,true\n"}
    with pytest.raises(UserError, match="statement 'dev-9-2-0' was predicted twice"):
        NLVR2Task("tiny").official_files([*rows, rows[1]])


def test_other_classes_than_the_data_has_are_told() -> None:
    facts = DataFacts(vocabulary=10, image_size=48, labels=("true", "false"))
    assert NLVRTask("tiny").disagreements(facts) == []
    (told,) = SNLIVETask("tiny").disagreements(facts)
    assert told.startswith("data.classes is ['true', 'false'], but model.classes ['entailment'")


@pytest.mark.parametrize("make", [NLVR2Task, NLVRTask])
def test_blind_statements_are_judged_without_the_image(make: Callable[..., StatementTask]) -> None:
    task = make("tiny", blind="image").eval()
    batch = statement_batch(rows=2, images=task.IMAGES)
    with patch.object(task.model.image, "forward", side_effect=AssertionError("the image tower ran")):
        logits = task(batch)
        torch.testing.assert_close(task(replace(batch, pixel_values=batch.pixel_values * 2)), logits)
