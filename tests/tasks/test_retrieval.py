"""Retrieval: what training compares, and that all pairs are scored as one by one."""

from __future__ import annotations

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
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tasks.retrieval_ranks import (
    IMAGES,
    PATIENCE,
    SHARES,
    make_task,
    part_of,
    results_of,
    retrieval_batch,
    work,
)
from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.models.contrastive import ContrastiveHead, contrastive_loss
from vle_lightning.models.ranking import Candidates, hard_candidates, ranking_loss, shifted_candidates
from vle_lightning.optim import OptimConfig, make_optimizer
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.ranked import best_matches
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.scoring import EncodedSplit, EncodedTexts, ScoredSplit, score_split, shortlist

ALL = torch.ones(4, dtype=torch.bool)
DIFFERENT = torch.arange(4)


@pytest.fixture(autouse=True)
def without_trainer() -> Iterator[None]:
    with patch.object(RetrievalTask, "log"):
        yield


def pair_by_pair(task: RetrievalTask, batch: RetrievalBatch) -> Tensor:
    """Score each pair by a full pass of its own, without any padding."""
    scores = torch.empty(len(batch), len(batch.owners))
    with torch.no_grad():
        for row in range(len(batch)):
            for column in range(len(batch.owners)):
                length = int(batch.attention_mask[column].sum())
                ids, mask = batch.input_ids[column : column + 1, :length], torch.ones(1, length, dtype=torch.bool)
                text = task.model.encode_text(ids, mask)
                fused = task.model.fuse(text, task.model.encode_image(batch.pixel_values[row : row + 1]))
                none, match = task.head(fused.pooled)[0]
                scores[row, column] = match - none if task.rank is None else task.rank(fused.pooled)[0, 0]
    return scores


def score(task: RetrievalTask, batches: list[RetrievalBatch], pairs: int = 1024, top_k: int = 0) -> ScoredSplit:
    encoded = EncodedSplit()
    with torch.no_grad():
        for batch in batches:
            task.encode(batch, encoded)
    return score_split(encoded, task.match, task.device, pairs, top_k)


# --- what training compares -------------------------------------------------------------------------------------------


def test_shifts_give_each_image_and_each_text_the_same_number_of_others() -> None:
    candidates = shifted_candidates(5, torch.tensor([1, 3]))
    pairs = list(zip(candidates.images.tolist(), candidates.texts.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == 15
    for row in range(5):
        assert [pairs[k] for k in candidates.of_image[row]] == [(row, row), (row, (row + 1) % 5), (row, (row + 3) % 5)]
        assert [pairs[k] for k in candidates.of_text[row]] == [(row, row), ((row - 1) % 5, row), ((row - 3) % 5, row)]


def literal_loss(scores: Tensor, candidates: Candidates, groups: Tensor, valid: Tensor) -> float:
    """Restate the loss pair by pair."""
    terms = []
    for row in range(len(groups)):
        for pairs in (candidates.of_image[row].tolist(), candidates.of_text[row].tolist()):
            right = math.exp(scores[pairs[0]])
            total = right
            for pair in pairs[1:]:
                image, text = int(candidates.images[pair]), int(candidates.texts[pair])
                if groups[image] != groups[text] and valid[image] and valid[text]:
                    total += math.exp(scores[pair])
            if valid[row]:
                terms.append(-math.log(right / total))
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("groups", [DIFFERENT, torch.tensor([0, 1, 0, 2])], ids=["different", "one image twice"])
@pytest.mark.parametrize("valid", [ALL, torch.tensor([True, False, True, True]), ~ALL], ids=["all", "three", "none"])
def test_the_loss_ranks_in_both_directions(groups: Tensor, valid: Tensor) -> None:
    candidates = shifted_candidates(4, torch.tensor([1, 2]))
    scores = torch.randn(12, generator=torch.Generator().manual_seed(1))
    loss = ranking_loss(scores, candidates, groups, valid)
    assert loss.item() == pytest.approx(literal_loss(scores, candidates, groups, valid), abs=1e-6)


def test_the_loss_of_an_ignorant_model_is_the_log_of_the_candidates() -> None:
    loss = ranking_loss(torch.zeros(12), shifted_candidates(4, torch.tensor([1, 2])), DIFFERENT, ALL)
    torch.testing.assert_close(loss, torch.tensor(math.log(3)))


def test_hard_negatives_are_distinct_and_never_of_the_same_image() -> None:
    groups, valid = torch.tensor([0, 1, 0, 2, 3]), torch.tensor([True, True, True, True, False])
    for seed in range(50):
        torch.manual_seed(seed)
        candidates = hard_candidates(torch.randn(5, 5), groups, valid, 2)
        pairs = list(zip(candidates.images.tolist(), candidates.texts.tolist(), strict=True))
        assert len(pairs) == 5 * (1 + 2 * 2)
        for row in range(4):
            texts = [pairs[k] for k in candidates.of_image[row]]
            images = [pairs[k] for k in candidates.of_text[row]]
            assert {image for image, _ in texts} == {text for _, text in images} == {row}
            drawn = [text for _, text in texts[1:]], [image for image, _ in images[1:]]
            for others in drawn:
                assert len(set(others)) == 2
                assert all(groups[other] != groups[row] and valid[other] for other in others)


def test_hard_negatives_follow_the_softmax_of_the_similarities() -> None:
    torch.manual_seed(0)
    similarities = torch.tensor([[9.0, 2.0, 1.0, 0.0]] * 4)
    counts = torch.zeros(4)
    for _ in range(3000):
        candidates = hard_candidates(similarities, DIFFERENT, ALL, 1)
        counts[candidates.texts[candidates.of_image[0, 1]]] += 1
    expected = torch.tensor([-torch.inf, 2.0, 1.0, 0.0]).softmax(0)
    torch.testing.assert_close(counts / 3000, expected, atol=0.03, rtol=0)


def test_the_contrastive_loss_is_that_of_its_definition() -> None:
    similarities = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    groups, valid = torch.tensor([0, 1, 0, 2]), torch.tensor([True, True, True, False])
    terms = []
    for row in range(3):
        for line in (similarities[row], similarities[:, row]):
            rivals = [line[k].exp() for k in range(3) if k == row or groups[k] != groups[row]]
            terms.append(-(line[row].exp() / sum(rivals)).log().item())
    loss = contrastive_loss(similarities, groups[:, None] == groups, valid)
    assert loss.item() == pytest.approx(sum(terms) / 6, abs=1e-6)
    assert contrastive_loss(similarities, groups[:, None] == groups, torch.zeros(4, dtype=torch.bool)).item() == 0


def test_the_temperature_starts_at_clips_and_is_clamped() -> None:
    head, unit = ContrastiveHead(8, 0.02), torch.eye(2, 256)
    torch.testing.assert_close(head(unit, unit).diagonal(), torch.full((2,), 1 / 0.07))
    torch.nn.init.constant_(head.log_scale, 50.0)
    torch.testing.assert_close(head(unit, unit).diagonal(), torch.full((2,), 100.0))


# --- the training step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"contrastive": 1.0}, {"scorer": "rank"}], ids=str)
def test_a_step_encodes_once_and_fuses_all_pairs_in_one_call(options: dict[str, Any]) -> None:
    task, batch = make_task(**options), retrieval_batch(4)
    model = task.model
    with (
        patch.object(model, "encode_text", wraps=model.encode_text) as text,
        patch.object(model, "encode_image", wraps=model.encode_image) as image,
        patch.object(model, "pool_pairs", wraps=model.pool_pairs) as pool,
    ):
        task.step(batch, Stage.TRAIN)
    assert (text.call_count, image.call_count, pool.call_count) == (1, 1, 1)
    assert len(pool.call_args.args[0].states) == 4 * 3


def test_the_pooled_pair_is_that_of_the_whole_fusion() -> None:
    task, batch = make_task(), retrieval_batch(4)
    with torch.no_grad():
        text = task.model.encode_text(batch.input_ids, batch.attention_mask)
        image = task.model.encode_image(batch.pixel_values)
        torch.testing.assert_close(task.model.pool_pairs(text, image), task.model.fuse(text, image).pooled)


OPTIONS: list[dict[str, Any]] = [{}, {"contrastive": 0.5}, {"contrastive": 1.0, "hard": True}, {"scorer": "rank"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    task = make_task(**options)
    task.step(retrieval_batch(), Stage.TRAIN).backward()
    trained = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("blind", ["image", "text"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_blind_task_trains_and_is_scored_without_the_withheld_side(blind: str, options: dict[str, Any]) -> None:
    task, batch = make_task(blind=blind, **options), retrieval_batch()
    tower = task.model.image if blind == "image" else task.model.text
    with patch.object(tower, "forward", side_effect=AssertionError("the withheld tower ran")):
        loss = task.step(batch, Stage.TRAIN)
        loss.backward()
        scores = score(task, [batch]).scores
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
    torch.testing.assert_close(scores, pair_by_pair(task, batch))
    axis = 0 if blind == "image" else 1
    torch.testing.assert_close(scores, scores.mean(axis, keepdim=True).expand(scores.shape))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_task_overfits_eight_images(options: dict[str, Any]) -> None:
    task, batch = make_task(**options).train(), retrieval_batch(8, shifts=(1, 2, 3, 4, 5, 6, 7))
    optimizer, schedule = make_optimizer(task, OptimConfig(lr=3e-3, fusion_multiplier=1, head_multiplier=1), steps=200)
    for _ in range(200):
        optimizer.zero_grad()
        task.step(batch, Stage.TRAIN).backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    task.eval()
    with torch.no_grad():
        task.validation_step(batch)
        assert task.split_scores(Stage.VAL)["r@1"] == 1.0


def test_meters_form_ranks_the_texts_of_each_image_by_an_output_of_its_own() -> None:
    task, batch = make_task(scorer="rank"), retrieval_batch(4, shifts=(1, 2))
    assert task.rank is not None
    torch.testing.assert_close(task.rank.weight, task.head.weight[1:])
    torch.testing.assert_close(task.rank.bias, task.head.bias[1:])
    assert not any(parameter.requires_grad for parameter in task.head.parameters())
    losses = []
    for image in range(4):
        texts = [image, (image + 1) % 4, (image + 2) % 4]
        fused = task.model.fuse(
            task.model.encode_text(batch.input_ids[texts], batch.attention_mask[texts]),
            task.model.encode_image(batch.pixel_values[[image] * 3]),
        )
        losses.append(F.cross_entropy(task.rank(fused.pooled).T, torch.tensor([0])))
    torch.testing.assert_close(task.step(batch, Stage.TRAIN), torch.stack(losses).mean())  # ITM adds none


def test_a_rank_output_comes_back_as_it_was_trained(tmp_path: Path) -> None:
    PretrainTask("tiny", classes=24).save_pretrained(tmp_path / "itm")
    task = RetrievalTask("tiny", scorer="rank", init=str(tmp_path / "itm"))
    assert task.new_heads == ("rank_output",)
    assert task.rank is not None
    torch.testing.assert_close(task.rank.weight, task.head.weight[1:])
    task.rank.weight.data += 1.0
    task.save_pretrained(tmp_path / "own")
    again = RetrievalTask.from_pretrained(tmp_path / "own")
    assert again.rank is not None
    assert torch.equal(again.rank.weight, task.rank.weight)


@pytest.mark.parametrize("options", [{"contrastive": 1.0}, {"scorer": "rank"}], ids=str)
def test_filler_rows_reach_no_loss(options: dict[str, Any]) -> None:
    task, batch = make_task(**options), retrieval_batch(4)
    kept = replace(batch, valid=torch.tensor([True, True, False, True]))
    changed = replace(kept, pixel_values=batch.pixel_values.clone(), input_ids=batch.input_ids.clone())
    changed.pixel_values[2] = 3.0
    changed.input_ids[2, 1] = 7
    torch.testing.assert_close(task.step(changed, Stage.TRAIN), task.step(kept, Stage.TRAIN))
    assert task.step(replace(batch, valid=torch.zeros(4, dtype=torch.bool)), Stage.TRAIN).item() == 0


def test_pre_trained_matching_is_where_ranking_starts(tmp_path: Path) -> None:
    pretrained = PretrainTask("tiny", classes=24)
    pretrained.save_pretrained(tmp_path)
    task = RetrievalTask("tiny", contrastive=1.0, init=str(tmp_path))
    torch.testing.assert_close(task.head.weight, pretrained.objectives["itm"].head.weight)  # type: ignore[union-attr]
    assert task.new_heads == ("contrastive",)
    assert "newly made: contrastive" in str(task.load_report)


def test_a_saved_task_comes_back_with_its_heads(tmp_path: Path) -> None:
    task, batch = make_task(contrastive=0.5), retrieval_batch(3)
    task.save_pretrained(tmp_path)
    again = RetrievalTask.from_pretrained(tmp_path).eval()
    assert again.weight == 0.5
    first, second = (score(one, [batch], top_k=1).scores for one in (task, again))
    torch.testing.assert_close(first, second)


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 7, 1024])
def test_exact_scores_equal_a_pass_for_each_pair(pairs: int) -> None:
    task, batch = make_task(), retrieval_batch(5, captions=3, tokens=9)
    expected = pair_by_pair(task, batch)
    scored = score(task, [part_of(batch, [3, 1]), part_of(batch, [4]), part_of(batch, [0, 2])], pairs)
    assert scored.image_ids == batch.image_ids
    assert scored.texts.ids == batch.text_ids
    assert scored.own == tuple(f"image/{row}" for row in (3, 1, 4, 0, 2))
    torch.testing.assert_close(scored.scores, expected[[3, 1, 4, 0, 2]], rtol=0, atol=1e-5)
    torch.testing.assert_close(task(batch).detach(), expected, rtol=0, atol=1e-5)


def test_evaluation_encodes_each_image_and_text_once() -> None:
    task, batch = make_task(), retrieval_batch(5, captions=3)
    model = task.model
    with (
        patch.object(model, "encode_text", wraps=model.encode_text) as text,
        patch.object(model, "encode_image", wraps=model.encode_image) as image,
    ):
        score(task, [part_of(batch, [0, 1]), part_of(batch, [2, 3, 4])])
    assert sum(len(call.args[0]) for call in text.call_args_list) == 15
    assert sum(len(call.args[0]) for call in image.call_args_list) == 5


def test_many_images_are_scored_block_by_block() -> None:
    task, batch = make_task(), retrieval_batch(5, captions=2)
    with patch("vle_lightning.tasks.scoring.BLOCK", 2), patch("vle_lightning.tasks.scoring.ON_DEVICE", 1):
        scored = score(task, [part_of(batch, [row]) for row in range(5)])
    torch.testing.assert_close(scored.scores, pair_by_pair(task, batch), rtol=0, atol=1e-5)


def test_a_shortlist_keeps_the_likeliest_of_each_side() -> None:
    random = torch.Generator().manual_seed(0)
    images, texts = torch.randn(10, 4, generator=random), torch.randn(50, 4, generator=random)
    chosen, similarities = shortlist(images, texts, 8), images @ texts.T
    for row in range(10):
        for column in range(50):
            better_texts = int((similarities[row] > similarities[row, column]).sum())
            better_images = int((similarities[:, column] > similarities[row, column]).sum())
            assert bool(chosen[row, column]) == (better_texts < 8 or better_images < 2)  # 8 of 50 are 1.6 of 10


def test_a_shortlist_of_all_is_exact_and_others_leave_pairs_out() -> None:
    task, batch = make_task(contrastive=1.0), retrieval_batch(5, captions=2)
    exact = score(task, [batch]).scores
    for top_k in (10, 99):
        assert torch.equal(score(task, [batch], top_k=top_k).scores, exact)
    few = score(task, [batch], top_k=2).scores
    fused = few.isfinite()
    assert (fused.sum(1) >= 2).all()
    assert (fused.sum(0) >= 1).all()
    assert 10 <= fused.sum() <= 20
    torch.testing.assert_close(few[fused], exact[fused], rtol=0, atol=1e-5)
    assert (few[~fused] == -torch.inf).all()


def literal_recall(scores: Tensor, owners: list[int], k: int) -> tuple[float, float]:
    """Restate TR@k and IR@k; scores that are equal do not occur here."""
    images, texts = scores.shape
    text_hits = [any(owners[t] == i for t in scores[i].topk(min(k, texts)).indices.tolist()) for i in range(images)]
    image_hits = [owners[t] in scores[:, t].topk(min(k, images)).indices.tolist() for t in range(texts)]
    return sum(text_hits) / images, sum(image_hits) / texts


def test_scores_are_the_recalls_of_the_whole_set_and_of_its_folds() -> None:
    task, batch = make_task(folds=(1, 2)), retrieval_batch(6, captions=2, seed=3)
    with torch.no_grad():
        task.validation_step(part_of(batch, [5, 0, 3]))
        task.validation_step(part_of(batch, [1, 4, 2]))
        task.validation_step(part_of(batch, [0, 1], valid=False))  # a filler counts nothing
        found = task.split_scores(Stage.VAL)
    scores, owners = pair_by_pair(task, batch), batch.owners.tolist()
    halves = [scores[:3, :6], scores[3:, 6:]]
    for k in (1, 5, 10):
        assert (found[f"tr@{k}"], found[f"ir@{k}"]) == pytest.approx(literal_recall(scores, owners, k))
        parts = [literal_recall(half, owners[:6], k) for half in halves]
        assert found[f"tr@{k}_2folds"] == pytest.approx((parts[0][0] + parts[1][0]) / 2)
        assert found[f"ir@{k}_2folds"] == pytest.approx((parts[0][1] + parts[1][1]) / 2)
    assert found["r@1"] == pytest.approx((found["tr@1"] + found["ir@1"]) / 2)
    assert len(found) == 13
    assert task._encoded[Stage.VAL].images == []  # the next validation starts anew


def test_a_shortlist_is_named_in_the_scores() -> None:
    task, batch = make_task(contrastive=1.0, top_k=2), retrieval_batch(4)
    with torch.no_grad():
        task.test_step(batch)
        found = task.split_scores(Stage.TEST)
    assert task.monitor == "val/r@1_top2"
    assert {"tr@1_top2", "ir@10_top2", "r@1_top2"} <= found.keys()
    assert all(name.endswith("_top2") for name in found)


def test_folds_that_do_not_come_out_even_are_left_out_with_a_warning() -> None:
    task = make_task(folds=(1, 5))
    with torch.no_grad():
        task.validation_step(retrieval_batch(4))
        with pytest.warns(UserWarning, match=r"4 images do not make 5 folds \(model\.folds\)"):
            assert "tr@1_5folds" not in task.split_scores(Stage.VAL)


def test_predictions_name_the_best_of_each_side() -> None:
    texts = EncodedTexts(("a/0", "a/1", "b/0"), ("x", "y", "z"), ("a", "a", "b"), *(torch.zeros(0),) * 3)
    scores = torch.tensor([[0.5, -torch.inf, 0.25], [2.0, 1.0, 2.0]])
    scored = ScoredSplit(("a", "b"), texts, ("b", "a"), scores, torch.zeros(2, 0))
    rows = {str(row["id"]): row for row in best_matches(scored, count=2)}
    assert rows["b"] == {
        "id": "b",
        "target": ["b/0"],
        "best_texts": [{"id": "a/0", "text": "x", "score": 0.5}, {"id": "b/0", "text": "z", "score": 0.25}],
    }
    assert [found["id"] for found in rows["a"]["best_texts"]] == ["a/0", "b/0"]  # type: ignore[attr-defined]
    assert rows["a/1"] == {"id": "a/1", "text": "y", "target": "a", "best_images": [{"id": "a", "score": 1.0}]}
    assert [found["id"] for found in rows["b/0"]["best_images"]] == ["a", "b"]  # type: ignore[attr-defined]
    assert len(rows) == 5


def test_the_last_batch_of_prediction_returns_all_rows() -> None:
    task, batch = make_task(), retrieval_batch(4)
    with torch.no_grad(), patch.object(RetrievalTask, "trainer") as trainer:
        trainer.num_predict_batches = [2]
        assert task.predict_step(part_of(batch, [0, 1]), 0) == []
        rows = task.predict_step(part_of(batch, [2, 3]), 1)
    assert sorted(str(row["id"]) for row in rows) == sorted([*batch.image_ids, *batch.text_ids])


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_found_is_named() -> None:
    task, batch = make_task(), retrieval_batch(3)
    with pytest.raises(UserError, match="image 'image/2' has no text"):
        task.validation_step(replace(batch, owners=torch.tensor([0, 1, 1])))
    empty = replace(batch, attention_mask=batch.attention_mask.clone())
    empty.attention_mask[1] = False
    with pytest.raises(UserError, match="text 'image/1/0' has no token"):
        task.validation_step(empty)


def test_images_and_texts_that_come_twice_are_named() -> None:
    task, batch = make_task(), retrieval_batch(3)
    with pytest.raises(UserError, match="image 'image/1' comes twice"):
        score(task, [batch, part_of(batch, [1])])
    with pytest.raises(UserError, match="text 'image/0/0' comes twice"):
        score(task, [replace(batch, text_ids=("image/0/0", "image/0/0", "image/2/0"))])


def test_scores_that_are_no_numbers_name_image_and_text() -> None:
    task, batch = make_task(), retrieval_batch(3)
    batch.pixel_values[1] = torch.nan
    with pytest.raises(UserError, match="score of image 'image/1' and text 'image/0/0' is not a number, and 2 more"):
        score(task, [batch])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"contrastive": -1.0}, r"model\.contrastive is -1"),
        ({"contrastive": math.nan}, r"model\.contrastive is nan"),
        ({"hard": True}, r"model\.hard is True, .* set model\.contrastive above 0"),
        ({"top_k": 16}, r"model\.top_k is 16, .* set model\.contrastive above 0"),
        ({"top_k": -1, "contrastive": 1.0}, r"model\.top_k is -1"),
        ({"pairs_per_batch": 0}, r"model\.pairs_per_batch is 0"),
        ({"folds": (5,)}, r"model\.folds is \[5\]"),
        ({"folds": (1, 0)}, r"model\.folds is \[1, 0\]"),
        ({"folds": (1, 5), "top_k": 2, "contrastive": 1.0}, r"model\.top_k is 2, but model\.folds \[1, 5\]"),
    ],
)
def test_bad_options_name_the_key(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_task(**options)


# --- several ranks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, tuple[dict[str, Any], str]]]:
    """What each of three processes computed, by the size of its world."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("forkserver")  # imports once, and no thread of the tests comes along
    context.set_forkserver_preload(["tests.tasks.retrieval_ranks"])
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE.total_seconds())
        assert process.exitcode == 0
    return [pickle.loads((folder / f"rank-{rank}").read_bytes()) for rank in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_with_uneven_shares_compute_what_one_does(
    world: int, of_ranks: list[dict[int, tuple[dict[str, Any], str]]]
) -> None:
    alone = results_of(SHARES[1][0])
    found = [of_ranks[rank][world][0] for rank in range(world)]
    for rank in found:
        assert {k: v for k, v in rank.items() if "rows" not in k} == {k: v for k, v in alone.items() if "rows" not in k}
    for name in ("rows 0", "rows 3"):
        together = sorted((row for rank in found for row in rank[name]), key=lambda row: str(row["id"]))
        assert len(together) == IMAGES * 3
        for row, expected in zip(together, sorted(alone[name], key=lambda row: str(row["id"])), strict=True):
            assert row.keys() == expected.keys()
            key = "best_texts" if "best_texts" in row else "best_images"
            assert [best["id"] for best in row[key]] == [best["id"] for best in expected[key]]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_all_ranks_name_what_is_broken_on_one(
    world: int, of_ranks: list[dict[int, tuple[dict[str, Any], str]]]
) -> None:
    for rank in range(world):
        assert "the score of image 'image/0' and text 'image/0/0' is not a number" in of_ranks[rank][world][1]


def test_scores_are_distinct_under_bfloat16() -> None:
    """In bfloat16 the two logits of the head, and with them 4,000 pairs, share far fewer scores."""
    torch.manual_seed(0)
    task = make_task().eval()
    nn.init.normal_(task.head.weight)
    batch = replace(retrieval_batch(1), pixel_values=torch.randn(1, 3, 48, 48))
    text = task.model.encode_text(batch.input_ids, batch.attention_mask)
    image = task.model.encode_image(batch.pixel_values)
    drawn = torch.randn(4000, image.states.shape[-1])
    images = Stream(image.states.expand(4000, -1, -1) + drawn[:, None], image.mask.expand(4000, -1))
    texts = text.select(torch.zeros(4000, dtype=torch.long))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = task.match(texts, images)
        logits = task.head(task.model.pool_pairs(texts, images))
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 3900
    assert len((logits[:, 1] - logits[:, 0]).unique()) < 2000  # what ranking in bfloat16 would see
