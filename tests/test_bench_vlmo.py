"""What `make bench` compares of dual encoders and of VLMo's step does the same work."""

from __future__ import annotations

import pytest
import torch

from tests.factories import of_kind
from vle_lightning.bench import dual, vlmo_step
from vle_lightning.bench.command import BENCHES
from vle_lightning.bench.retrieval import make_set, once
from vle_lightning.models.mome import MoME


def test_both_recipes_give_the_same_losses_and_gradients() -> None:
    task, batch = vlmo_step.build("vlmo-tiny")
    losses, gradients = [], []
    for recipe in vlmo_step.RECIPES.values():
        losses.append({name: loss.item() for name, loss in recipe(task, batch).items()})
        vlmo_step.step(recipe, task, batch)
        gradients.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
    assert losses[0].keys() == set(vlmo_step.OBJECTIVES)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_published_recipe_has_four_joint_passes_of_forty_tokens_and_ours_one() -> None:
    task, batch = vlmo_step.build("vlmo-tiny")
    assert vlmo_step.SHORTEST <= batch.attention_mask.sum(1).min() <= batch.input_ids.shape[1] <= vlmo_step.LONGEST
    passes = {}
    for name, recipe in vlmo_step.RECIPES.items():
        with of_kind(MoME, task.model).calls() as calls:
            recipe(task, batch)
        passes[name] = [call.sizes[:2] for call in calls if call.way == "fusion"]
    assert passes == {"ours": [(16, batch.input_ids.shape[1])], "published": [(4, 40)] * 4}


@pytest.mark.slow
def test_ratios_are_published_over_ours() -> None:
    results = vlmo_step.compare_steps("vlmo-tiny", repeats=1)
    seconds, memory = "vlmo_step_seconds", "vlmo_peak_memory_gib"
    assert results["vlmo_step_speedup"] == results[f"{seconds}/published"] / results[f"{seconds}/ours"]
    assert results["vlmo_memory_ratio"] == results[f"{memory}/published"] / results[f"{memory}/ours"]
    assert results["vlmo_step_flops_ratio"] > 1
    assert results["vlmo_mlm_loss/ours"] == pytest.approx(results["vlmo_mlm_loss/published"], rel=1e-5)


def test_both_ways_of_retrieval_score_the_same_pairs_by_equal_weights() -> None:
    two, fusion = dual.build("vlmo-tiny")
    batch = make_set(4, 2, 48, two.model.vocabulary)
    with torch.inference_mode():
        vectors = dual.similarities(two, batch)
        torch.testing.assert_close(vectors, two(batch))
        assert vectors.shape == once(fusion, batch, 8).shape == (4, 8)
        text = two.model.encode_text(batch.input_ids[:1], batch.attention_mask[:1])
        image = two.model.encode_image(batch.pixel_values[:1])
        torch.testing.assert_close(fusion.match(text, image), two.match(text, image))


def test_the_speedup_is_of_scores_per_second() -> None:
    found = dual.compare_dual("vlmo-tiny", images=6, share=2, captions=2, repeats=1)
    rates = found["dual_scores_per_second/6x12"], found["fusion_scores_per_second/share_of_2x4"]
    assert found["dual_speedup"] == rates[0] / rates[1]
    assert BENCHES["dual"] is dual.bench_dual
