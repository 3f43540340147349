"""Retrieval by a dual encoder: recall of similarities, the best fused again, contrast as the only loss."""

from __future__ import annotations

import json
import math
import multiprocessing
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tasks.retrieval_ranks import IMAGES, PATIENCE, SHARES, make_dual, part_of, results_of, retrieval_batch, work
from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.metrics.recall import retrieval_scores
from vle_lightning.models.contrastive import TEMPERATURE
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.scoring import shortlist

ARCHITECTURES = ("vlmo-tiny", "tiny")


@pytest.fixture(autouse=True)
def without_trainer() -> Iterator[None]:
    with patch.object(DualRetrievalTask, "log"):
        yield


def on_the_circle(degrees: list[float]) -> Tensor:
    """Return unit vectors (N, 2)."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def scores_of(task: DualRetrievalTask, batch: RetrievalBatch) -> dict[str, float]:
    with torch.no_grad():
        task.validation_step(batch)
        return task.split_scores(Stage.VAL)


def fused_one_by_one(task: DualRetrievalTask, batch: RetrievalBatch) -> Tensor:
    """Fuse each pair by itself, without any padding: by how much ITM's head takes it for a match (I, T)."""
    scores = torch.empty(len(batch), len(batch.owners))
    with torch.no_grad():
        for row in range(len(batch)):
            for column in range(len(batch.owners)):
                length = int(batch.attention_mask[column].sum())
                ids = batch.input_ids[column : column + 1, :length]
                text = task.model.encode_text(ids, torch.ones(1, length, dtype=torch.bool))
                fused = task.model.fuse(text, task.model.encode_image(batch.pixel_values[row : row + 1]))
                none, match = task.head(fused.pooled)[0]
                scores[row, column] = match - none
    return scores


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_recall_is_that_of_the_angles_between_vectors() -> None:
    """Each text finds the image at its side; of the texts at 5 to 10 degrees, one of another image lies in front."""
    task, batch = make_dual(), retrieval_batch(3, captions=2)
    texts, images = on_the_circle([10, 100, 85, 170, 175, 5]), on_the_circle([0, 90, 180])
    with patch.object(task, "vectors", return_value=(texts, images)):
        found = scores_of(task, batch)
    assert found["ir@1"] == pytest.approx(3 / 6)  # 100 lies at 90, 170 at 180 and 5 at 0 degrees: none is their own
    assert found["tr@1"] == pytest.approx(2 / 3)  # of the first image 5 comes first, another's
    assert found["r@1"] == pytest.approx((3 / 6 + 2 / 3) / 2)
    assert (found["tr@5"], found["ir@5"]) == (1, 1)
    assert task.monitor == "val/r@1"


def test_scores_are_products_of_the_vectors_of_all_batches_and_nothing_is_fused() -> None:
    task, batch = make_dual(folds=(1, 2)), retrieval_batch(6, captions=2)
    with torch.no_grad():
        cosines = task(batch)
        assert cosines.abs().max() <= 1 + 1e-6
        with patch.object(task.model, "pool_pairs", side_effect=AssertionError("a pair was fused")):
            task.validation_step(part_of(batch, [5, 0, 3]))
            task.validation_step(part_of(batch, [1, 4, 2]))
            found = task.split_scores(Stage.VAL)
    recall = retrieval_scores(cosines, batch.owners)
    assert {k: found[f"tr@{k}"] for k in recall.text} == pytest.approx(recall.text)
    assert {k: found[f"ir@{k}"] for k in recall.image} == pytest.approx(recall.image)
    halves = [retrieval_scores(cosines[:3, :6], batch.owners[:6]), retrieval_scores(cosines[3:, 6:], batch.owners[:6])]
    assert found["tr@1_2folds"] == pytest.approx(sum(half.text[1] for half in halves) / 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_best_are_ranked_again_by_fusion(architecture: str) -> None:
    task, batch = make_dual(architecture, top_k=2), retrieval_batch(5, captions=2)
    with torch.no_grad():
        texts, images = task.vectors(*_streams(task, batch))
        chosen = shortlist(images, texts, 2)
        found = scores_of(task, batch)
    assert (chosen.sum(1) >= 2).all()
    assert 10 <= chosen.sum() <= 20 < chosen.numel()
    logits = (images @ texts.T).detach() / TEMPERATURE  # of contrast, as it begins
    fused = (fused_one_by_one(task, batch) + logits).masked_fill(~chosen, -torch.inf)
    recall = retrieval_scores(fused, batch.owners)
    assert task.monitor == "val/r@1_top2"
    for suffix, by in (("_top2", recall), ("", retrieval_scores(images @ texts.T, batch.owners))):  # both, to compare
        assert {k: found[f"tr@{k}{suffix}"] for k in by.text} == pytest.approx(by.text)
        assert {k: found[f"ir@{k}{suffix}"] for k in by.image} == pytest.approx(by.image)
    assert len(found) == 2 * 7


def test_a_matching_head_that_has_learnt_nothing_leaves_the_order_of_similarities() -> None:
    task, batch = make_dual(top_k=5), retrieval_batch(5, captions=2)
    nn.init.zeros_(task.head.weight)
    with torch.no_grad():
        found = scores_of(task, batch)
    assert {k: found[f"{k}_top5"] for k in ("tr@1", "ir@1", "tr@5", "r@1")} == {
        k: found[k] for k in ("tr@1", "ir@1", "tr@5", "r@1")
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_matching_judges_each_pair_and_both_ways_of_breaking_it(architecture: str) -> None:
    """Of two pairs each has one possible negative, so that nothing is left to the draw."""
    alone, both = (make_dual(architecture, matching=weight) for weight in (0.0, 0.5))
    batch = retrieval_batch(2)
    margins = fused_one_by_one(both, batch)  # of images x texts
    right, wrong = -nn.functional.logsigmoid(margins), -nn.functional.logsigmoid(-margins)
    expected = (right[0, 0] + right[1, 1] + 2 * wrong[0, 1] + 2 * wrong[1, 0]) / 6
    losses = [task.step(batch, Stage.TRAIN) for task in (alone, both)]
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * expected, rtol=1e-4, atol=1e-5)
    losses[1].backward()
    idle = [name for name, weight in both.named_parameters() if weight.requires_grad and weight.grad is None]
    assert idle == []


def _streams(task: DualRetrievalTask, batch: RetrievalBatch) -> tuple[Any, Any]:
    text = task.model.encode_text(batch.input_ids, batch.attention_mask)
    return text, task.model.encode_image(batch.pixel_values)


def test_predictions_name_the_best_by_similarity() -> None:
    task, batch = make_dual(), retrieval_batch(4, captions=2)
    with torch.no_grad(), patch.object(DualRetrievalTask, "trainer") as trainer:
        trainer.num_predict_batches = [2]
        assert task.predict_step(part_of(batch, [0, 1]), 0) == []
        rows = {str(row["id"]): row for row in task.predict_step(part_of(batch, [2, 3]), 1)}
        cosines = task(batch)
    assert rows.keys() == {*batch.image_ids, *batch.text_ids}
    for number, image in enumerate(batch.image_ids):
        order = cosines[number].argsort(descending=True)
        best: Any = rows[image]["best_texts"]
        assert [row["id"] for row in best] == [batch.text_ids[place] for place in order]
        assert [row["score"] for row in best] == pytest.approx(cosines[number][order].tolist(), abs=1e-6)
    for number, text in enumerate(batch.text_ids):
        found: Any = rows[text]["best_images"]
        order = cosines[:, number].argsort(descending=True)
        assert [row["id"] for row in found] == [batch.image_ids[place] for place in order]
        assert rows[text]["target"] == batch.image_ids[int(batch.owners[number])]


# --- the training step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_the_contrast_of_the_first_way(architecture: str) -> None:
    task, batch = make_dual(architecture).train(), retrieval_batch(4)
    texts, images = task.vectors(*_streams(task.eval(), batch))
    scores = task.contrast.heads()[0].log_scale.exp() * images @ texts.T
    terms = [-side[row].log_softmax(0)[row] for row in range(4) for side in (scores, scores.T)]
    loss = task.step(batch, Stage.TRAIN)
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    loss.backward()
    touched = {name for name, weight in task.named_parameters() if weight.grad is not None}
    assert any(name.startswith("contrast.single.") for name in touched)
    assert not any(name.startswith(("head.", "contrast.pair.")) or ".experts.pair." in name for name in touched)


def test_a_fine_tuned_encoder_comes_back_with_its_heads(tmp_path: Path) -> None:
    torch.manual_seed(1)
    PretrainTask("vlmo-tiny", {"itc": 1.0, "itm_hard": 1.0}).save_pretrained(tmp_path / "pretrained")
    task = DualRetrievalTask("vlmo-tiny", init=str(tmp_path / "pretrained")).eval()
    assert task.new_heads == ()
    task.save_pretrained(tmp_path / "dual")
    again, batch = DualRetrievalTask.from_pretrained(tmp_path / "dual").eval(), retrieval_batch(3)
    with torch.no_grad():
        torch.testing.assert_close(again(batch), task(batch))
        torch.testing.assert_close(again.match(*_streams(again, batch)), task.match(*_streams(task, batch)))


def test_a_source_has_to_hold_the_way_that_is_compared(tmp_path: Path) -> None:
    make_dual().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    with safe_open(file, "pt") as content:
        about = content.metadata()
    kept = {name: value for name, value in load_file(file).items() if not name.startswith("contrast.single.")}
    assert not any(name.startswith("contrast.") for name in kept)  # the second way has no head here
    save_file(kept, file, about)
    with pytest.raises(UserError, match=r"contrast\.single\.text\.weight is missing"):
        DualRetrievalTask("vlmo-tiny", init=str(tmp_path))


def test_earlier_checkpoints_had_one_head_for_both_ways(tmp_path: Path) -> None:
    source = PretrainTask("vlmo-tiny", {"itc": 1.0, "itm_hard": 1.0})
    source.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["heads"].pop("itc"), content["heads"].pop("itc_pair")) == (
        "objectives.itc.single",
        "objectives.itc.pair",
    )
    content["heads"]["itc"] = "objectives.itc"
    (tmp_path / "config.json").write_text(json.dumps(content))
    again = PretrainTask.from_pretrained(tmp_path)
    assert again.new_heads == ()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in source.state_dict().items())
    dual = DualRetrievalTask("vlmo-tiny", init=str(tmp_path))
    assert dual.new_heads == ()
    assert torch.equal(dual.contrast.heads()[0].text.weight, source.state_dict()["objectives.itc.single.text.weight"])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"matching": -1.0}, r"model\.matching is -1\.0; give a weight of at least 0, and finite"),
        ({"top_k": -1}, r"model\.top_k is -1; give the texts in an image's shortlist, or 0"),
        ({"pairs_per_batch": 0}, r"model\.pairs_per_batch is 0"),
        ({"folds": (5,)}, r"model\.folds is \[5\]"),
        ({"folds": (1, 5), "top_k": 2}, r"model\.top_k is 2, but model\.folds \[1, 5\]"),
        ({"blind": "image"}, r"model\.blind=image: contrast compares texts with images, and needs both"),
        ({"blind": "text"}, r"model\.blind=text: contrast compares"),
    ],
)
def test_bad_options_name_the_key(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        make_dual(**options)
    assert "\n" not in str(error.value)


def test_a_head_that_nothing_trained_does_not_rank(tmp_path: Path) -> None:
    """Contrast leaves ITM's head as it came: a source without one would have the best ranked at random."""
    PretrainTask("vlmo-tiny", {"itc": 1.0}).save_pretrained(tmp_path / "contrast")
    told = r"model\.top_k is 2, but these weights hold no trained head itm_score to rank the best again: set"
    for init in (None, str(tmp_path / "contrast")):
        task = DualRetrievalTask("vlmo-tiny", init=init).eval()
        scores_of(task, retrieval_batch(3))
        task.save_pretrained(tmp_path / "dual")
        again = DualRetrievalTask.from_pretrained(tmp_path / "dual", top_k=2).eval()
        assert "newly made: itm_score" in str(again.load_report)
        with pytest.raises(UserError, match=told):
            scores_of(again, retrieval_batch(3))
    make_dual().save_pretrained(tmp_path / "dual")
    assert "r@1_top2" in scores_of(DualRetrievalTask.from_pretrained(tmp_path / "dual", top_k=2), retrieval_batch(3))


def test_vectors_that_are_no_numbers_name_image_and_text() -> None:
    task, batch = make_dual(), retrieval_batch(3)
    pixels = batch.pixel_values.clone()
    pixels[1] = math.nan
    with pytest.raises(UserError, match="score of image 'image/1' and text 'image/0/0' is not a number, and 2 more"):
        scores_of(task, replace(batch, pixel_values=pixels))


# --- several ranks ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_with_uneven_shares_compute_what_one_does(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tasks.retrieval_ranks"])
    processes = [context.Process(target=work, args=(rank, tmp_path, True)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE.total_seconds())
        assert process.exitcode == 0
    found = [pickle.loads((tmp_path / f"rank-{rank}").read_bytes()) for rank in range(3)]
    alone = results_of(SHARES[1][0], is_dual=True)
    for world in (2, 3):
        results = [found[rank][world][0] for rank in range(world)]
        for rank in results:
            scores = {name: value for name, value in rank.items() if "rows" not in name}
            assert scores == {name: value for name, value in alone.items() if "rows" not in name}
        for name in ("rows 0", "rows 3"):
            together = sorted((row for rank in results for row in rank[name]), key=lambda row: str(row["id"]))
            assert len(together) == IMAGES * 3
            for row, expected in zip(together, sorted(alone[name], key=lambda row: str(row["id"])), strict=True):
                key = "best_texts" if "best_texts" in row else "best_images"
                assert [best["id"] for best in row[key]] == [best["id"] for best in expected[key]]
