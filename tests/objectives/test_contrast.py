"""Contrast and hard negatives: against literal restatements, and the same on any cut of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.factories import WORDS, generator, pretrain_batch
from vle_lightning.batch import PretrainBatch
from vle_lightning.errors import UserError
from vle_lightning.models.mome import MoMEConfig
from vle_lightning.objectives.contrast import Mining, Partners, Rows, Vectors, draw_partners, gather
from vle_lightning.objectives.itc import ImageTextContrast
from vle_lightning.objectives.itm_hard import HardImageTextMatching
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask

STEP = 12  # rows
MOME = MoMEConfig(
    image_size=48, patch_size=8, vocab_size=WORDS, width=16, layers=2, heads=2, intermediate=32, fusion_layers=1,
    text_positions=16, drop_path=0.0,
)  # fmt: skip
WEIGHTS = {"itc": 1.0, "itm_hard": 1.0}


def task(weights: dict[str, float] = WEIGHTS, architecture: Any = MOME, **options: Any) -> PretrainTask:  # noqa: ANN401
    torch.manual_seed(0)
    made = PretrainTask(architecture, dict(weights), classes=24, seed=5, **options)
    for module in made.model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)  # so that vectors differ
    made.log = lambda *_, **__: None  # type: ignore[method-assign]
    return made.train()


def cut(whole: PretrainBatch, sizes: Sequence[int], first: int = 0, stride: int = 1) -> list[PretrainBatch]:
    """Cut a step into micro-batches; the first one brings the others along."""
    parts, start = [], 0
    for place, size in enumerate(sizes):
        rows = slice(start, start + size)
        changes: dict[str, Any] = {
            name: value[rows]
            for name in vars(whole)
            if isinstance(value := getattr(whole, name), Tensor | tuple) and len(value) == len(whole)
        }
        changes["partner"] = torch.arange(size)
        parts.append(replace(whole, **changes, number=first + place * stride))
        start += size
    parts[0] = replace(parts[0], ahead=tuple(parts[1:]))
    return parts


def gradients(made: PretrainTask, parts: list[PretrainBatch]) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Return the gradients of a step, the mean of its micro-batches', and each one's losses."""
    made.zero_grad()
    losses = []
    for part in parts:
        outputs = made.judge(part, is_whole=False)
        losses.append({name: output.loss.item() for name, output in outputs.items()})
        (torch.stack([output.loss for output in outputs.values()]).sum() / len(parts)).backward()
    found = {name: weight.grad.clone() for name, weight in made.named_parameters() if weight.grad is not None}
    return found, losses


@pytest.mark.parametrize("architecture", [MOME, "tiny"], ids=["experts", "dual stream"])
@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4)], ids=str)
def test_micro_batches_make_the_gradients_of_the_whole_step(sizes: tuple[int, ...], architecture: Any) -> None:  # noqa: ANN401
    made, whole = task(architecture=architecture), pretrain_batch(STEP)
    expected, (loss,) = gradients(made, [whole])
    found, losses = gradients(made, cut(whole, sizes))
    assert [part["itc"] for part in losses] == pytest.approx([loss["itc"]] * len(sizes), rel=1e-6)
    assert sum(part["itm_hard"] for part in losses) / len(sizes) == pytest.approx(loss["itm_hard"], rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_gradient_is_that_of_the_loss_by_its_definition() -> None:
    made, whole = task({"itc": 1.0}), pretrain_batch(STEP)
    found, (loss,) = gradients(made, [whole])
    made.zero_grad()
    objective = made.objectives["itc"]
    assert isinstance(objective, ImageTextContrast)
    vectors = objective.vectors_of(made.model, made._encode(whole))
    terms = []
    for way, head in enumerate(objective.heads()):
        scores = head.log_scale.exp() * vectors.images[way] @ vectors.texts[way].T
        for row in range(STEP):
            terms += [-scores[row].log_softmax(0)[row] / 2, -scores[:, row].log_softmax(0)[row] / 2]
    expected = torch.stack(terms).sum() / STEP / len(objective.heads())
    assert loss["itc"] == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for name, weight in made.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_first_pass_draws_the_same_dropout_as_the_second() -> None:
    made = task({"itc": 1.0}, replace(MOME, drop_path=0.5))
    seen: list[Vectors] = []
    objective = made.objectives["itc"]
    assert isinstance(objective, ImageTextContrast)
    plain = objective.vectors_of

    def record(*arguments: Any) -> Vectors:  # noqa: ANN401
        seen.append(plain(*arguments))
        return seen[-1]

    objective.vectors_of = record  # type: ignore[method-assign, assignment]
    for part in cut(pretrain_batch(STEP), (6, 6)):
        made.training_step(part)
    first, second, *again = seen
    for one, other in zip((first, second), again, strict=True):
        torch.testing.assert_close(one, other)
    made.eval()
    for part in cut(pretrain_batch(STEP), (6, 6)):
        calm = plain(made.model, made._encode(part))
        assert not torch.allclose((first, second)[part.number].texts, calm.texts, atol=1e-2)  # it did drop


def rows_of(whole: PretrainBatch, sizes: Sequence[int] = (STEP,)) -> Rows:
    parts = cut(whole, sizes)
    vectors = nn.functional.normalize(torch.randn(1, len(whole), 8, generator=generator(1)), dim=-1)
    pieces = [Vectors(part, part) for part in vectors.split(list(sizes), dim=1)]
    return gather(pieces, parts)


def test_rows_stand_in_one_order_however_a_step_is_cut() -> None:
    whole = pretrain_batch(STEP)
    whole = replace(whole, keys=whole.keys[torch.randperm(STEP, generator=generator(3))])
    one, other = rows_of(whole), rows_of(whole, (3, 3, 3, 3))
    assert torch.equal(one.vectors.texts, other.vectors.texts)
    assert torch.equal(one.same, other.same)
    assert torch.equal(one.own.flatten(), other.own.flatten())
    assert other.number[other.own].tolist() == [[number] * 3 for number in range(4)]


def test_short_micro_batches_are_padded_with_rows_that_count_for_nothing() -> None:
    whole = replace(pretrain_batch(5), planned=8)
    rows = rows_of(whole, (5,))
    assert rows.valid.tolist() == [True] * 5 + [False] * 3
    made = task()
    _, (padded,) = gradients(made, [whole])
    _, (plain,) = gradients(made, [replace(whole, planned=5)])
    assert padded["itc"] == pytest.approx(plain["itc"], rel=1e-6)


def allowed(rows: Rows, row: int, mining: Mining) -> set[int]:
    """Say, by the definition, which rows may be drawn for a row."""
    return {
        other
        for other in range(len(rows.valid))
        if rows.valid[other]
        and not rows.same[row, other]
        and (mining == "global" or rows.number[row] == rows.number[other])
    }


@pytest.mark.parametrize("mining", ["global", "local"])
def test_partners_are_drawn_from_the_softmax_of_what_is_allowed(mining: Mining) -> None:
    whole = pretrain_batch(STEP)
    keys = whole.keys.clone()
    keys[1, 1], keys[2, 2] = keys[0, 1], keys[0, 2]  # row 1 shows the image of row 0, row 2 says its text
    valid = torch.arange(STEP) != 5
    rows = rows_of(replace(whole, keys=keys, valid=valid), (6, 6))
    scores = torch.randn(STEP, STEP, generator=generator(2)) * 2
    drawn = [draw_partners(scores, rows, mining, seed) for seed in range(4000)]
    for side, partners in ((scores, [part.texts for part in drawn]), (scores.T, [part.images for part in drawn])):
        counts = torch.stack([partner[0] for partner in partners]).bincount(minlength=STEP) / len(drawn)
        may = allowed(rows, 0, mining)
        expected = torch.tensor([side[0, other].exp() if other in may else 0.0 for other in range(STEP)])
        torch.testing.assert_close(counts, expected / expected.sum(), atol=0.04, rtol=0)
    assert len(allowed(rows, 0, "local")) < len(allowed(rows, 0, "global"))


def test_a_row_without_candidate_draws_nobody_and_similarities_may_overflow() -> None:
    lone = rows_of(pretrain_batch(1), (1,))
    assert draw_partners(torch.ones(1, 1), lone, "global", 0) == Partners(torch.tensor([-1]), torch.tensor([-1]))
    rows = rows_of(pretrain_batch(4), (4,))
    for value in (torch.inf, -torch.inf, torch.nan, 1e38):
        drawn = draw_partners(torch.full((4, 4), value), rows, "global", 0)
        assert all((part >= 0).all() and (part != torch.arange(4)).all() for part in drawn)


@pytest.mark.parametrize("mining", ["global", "local"])
def test_a_batch_of_one_and_one_of_fillers_have_finite_losses_and_gradients(mining: Mining) -> None:
    made = task(mining=mining)
    one = pretrain_batch(1)
    found, (loss,) = gradients(made, [one])
    assert loss["itc"] == 0  # nothing to tell apart
    assert all(gradient.isfinite().all() for gradient in found.values())
    fillers = replace(pretrain_batch(4), valid=torch.zeros(4, dtype=torch.bool))
    found, (loss,) = gradients(made, [fillers])
    assert loss == {"itc": 0, "itm_hard": 0}
    assert all((gradient == 0).all() for gradient in found.values())


def test_a_sharp_temperature_stays_finite() -> None:
    made = task()
    for name, weight in made.named_parameters():
        if name.endswith("log_scale"):
            nn.init.constant_(weight, 80.0)
    found, (loss,) = gradients(made, [pretrain_batch(STEP)])
    assert all(torch.isfinite(torch.tensor(value)) for value in loss.values())
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_local_mining_draws_other_negatives_than_global() -> None:
    whole, found = pretrain_batch(STEP), {}
    for mining in ("global", "local"):
        found[mining] = gradients(task(mining=mining), cut(whole, (6, 6)))[1]
    assert found["global"][0]["itc"] == found["local"][0]["itc"]
    assert found["global"][0]["itm_hard"] != found["local"][0]["itm_hard"]


def test_hard_matching_judges_pairs_other_texts_and_other_images() -> None:
    made, whole = task(), pretrain_batch(4)
    outputs = made.judge(whole)
    assert made._contrast is not None
    encoded, extras = made._contrast.extend(whole, made._encode(whole), is_whole=True)
    assert encoded.negatives is not None
    model, objective = made.model, made.objectives["itm_hard"]
    assert isinstance(objective, HardImageTextMatching)
    head = objective.head
    text, image = model.encode_text(whole.input_ids, whole.attention_mask), model.encode_image(whole.pixel_values)
    logits = [
        head(model.fuse(*pair).pooled)
        for pair in ((text, image), (encoded.negatives.texts, image), (text, encoded.negatives.images))
    ]
    losses = [-part.log_softmax(-1)[:, 1 if place == 0 else 0] for place, part in enumerate(logits)]
    assert outputs["itm_hard"].loss.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert extras
    names = [score.name for score in outputs["itm_hard"].scores]
    assert [float(score.total) for score in outputs["itm_hard"].scores] == [12, 4, 8]
    assert names == ["itm_hard_accuracy", "itm_hard_matches", "itm_hard_mismatches"]


def test_mlm_beside_contrast_gets_the_same_loss_as_alone() -> None:
    made, whole = task({"itc": 1.0, "itm_hard": 1.0, "mlm": 0.25}), pretrain_batch(STEP)
    long = cut(whole, (6, 6))
    short = [replace(part, input_ids=part.input_ids[:, :7], attention_mask=part.attention_mask[:, :7],
                     masked_input_ids=part.masked_input_ids[:, :7], mlm_targets=part.mlm_targets[:, :7],
                     mlm_content=part.mlm_content[:, :7]) for part in long]  # fmt: skip
    parts = [replace(short[0], ahead=(long[1],)), long[1]]  # texts of two lengths: negatives are padded
    alone = task({"mlm": 0.25})
    alone.load_state_dict({k: v for k, v in made.state_dict().items() if k in alone.state_dict()}, strict=False)
    for part in parts:
        together = made.judge(part, is_whole=False)
        assert together["mlm"].loss.item() == pytest.approx(alone.judge(part)["mlm"].loss.item(), rel=1e-5)


def test_evaluation_compares_the_micro_batch_alone() -> None:
    made, whole = task().eval(), pretrain_batch(6)
    with torch.no_grad():
        assert made.judge(whole)["itc"].loss == made.judge(replace(whole, number=7))["itc"].loss
        made.step(replace(whole, number=3), Stage.VAL)


def test_a_loader_that_does_not_look_ahead_is_refused() -> None:
    parts = cut(pretrain_batch(STEP), (6, 6))
    with pytest.raises(RuntimeError, match="micro-batch 1 of step 0 came without those before it"):
        task().judge(parts[1], is_whole=False)


@pytest.mark.parametrize(
    ("weights", "told"), [({"itm": 1, "itm_hard": 1, "itc": 1}, "one head"), ({"itm_hard": 1}, "add itc")]
)
def test_objectives_that_do_not_go_together_are_refused(weights: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told):
        PretrainTask(MOME, weights)
