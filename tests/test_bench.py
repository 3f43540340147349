"""What `make bench` times against each other does the same work."""

from __future__ import annotations

import json

import pytest
import torch

from tests.factories import dual
from vle_lightning.bench import bf16
from vle_lightning.bench.command import BENCHES, main
from vle_lightning.bench.pretraining import (
    LONGEST,
    PADDED,
    SHORTEST,
    bench_memory,
    bench_step,
    build,
    build_plain,
    our_loss,
    padded,
    plain_loss,
)
from vle_lightning.bench.timing import PRODUCT, best_of_alternating, share_of_product_rate
from vle_lightning.bench.vcr import bench_vcr, four_passes, make_question, one_pass
from vle_lightning.tasks.vcr import VCRTask


def test_both_recipes_give_the_same_losses_and_gradients() -> None:
    task, batch = build("tiny")
    losses, gradients = [], []
    for recipe in (our_loss, plain_loss):
        task.zero_grad()
        loss = recipe(task, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)


def test_transformers_towers_with_our_weights_give_the_same_loss_and_gradients() -> None:
    losses, norms = [], []
    for make, recipe in ((build, our_loss), (build_plain, plain_loss)):
        task, batch = make("tiny")
        loss = recipe(task, batch)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in task.parameters() if p.grad is not None]).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_texts_are_8_to_20_tokens_and_padded_to_50_in_the_plain_recipe() -> None:
    _, batch = build("tiny")
    lengths = batch.attention_mask.sum(1)
    assert SHORTEST <= lengths.min() <= lengths.max() == batch.input_ids.shape[1] <= LONGEST
    assert padded(batch).input_ids.shape[1] == padded(batch).mlm_targets.shape[1] == PADDED


@pytest.mark.slow
def test_the_ratio_is_plain_over_ours() -> None:
    results = bench_step("tiny", repeats=1)
    assert results["step_speedup"] == results["step_seconds/plain"] / results["step_seconds/ours"]
    rate = results["step_gigaflops/ours"] / results["step_seconds/ours"]
    assert results["step_share_of_product_rate"] == pytest.approx(rate / results["step_product_gflops_per_second"])
    memory = bench_memory("tiny", repeats=1)
    assert memory["peak_memory_ratio"] == memory["peak_memory_gib/ours"] / memory["peak_memory_gib/plain"]


@pytest.mark.slow
def test_bf16_is_compared_with_float32() -> None:
    results = bf16.compare_precisions("tiny", repeats=1)
    seconds = results["bf16_step_seconds/float32"], results["bf16_step_seconds/bf16"]
    assert results["bf16_step_speedup"] == seconds[0] / seconds[1]


def test_a_step_in_bf16_has_the_loss_of_float32() -> None:
    task, batch = build("tiny")
    with torch.no_grad():
        plain, mixed = our_loss(task, batch), bf16.mixed_loss(task, batch)
    assert plain.item() != mixed.item()
    assert plain.item() == pytest.approx(mixed.item(), rel=0.01)


@pytest.mark.parametrize("has", [False, None])
def test_bf16_is_not_measured_where_it_would_be_emulated(
    has: bool | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bf16, "has_bf16_units", lambda: has)
    assert bf16.bench_bf16("vle-base", repeats=3) == {}
    assert "bf16: not measured" in capsys.readouterr().err


def test_a_share_is_of_the_rate_of_the_product() -> None:
    product = 2 * PRODUCT**3
    shares = share_of_product_rate("x", flops=product, seconds=4.0, product=1.0)
    assert shares == {"x_product_gflops_per_second": product / 1e9, "x_share_of_product_rate": 0.25}


def test_one_pass_scores_as_four_do_and_encodes_the_image_once() -> None:
    task, question = VCRTask("tiny").eval(), make_question(48, 200)
    images: list[int] = []
    dual(task.model).image.register_forward_hook(lambda module, inputs, output: images.append(len(inputs[0])))
    with torch.inference_mode():
        once = one_pass(task, question)
        assert images == [1]
        torch.testing.assert_close(once, four_passes(task, question), rtol=1e-4, atol=1e-5)
    assert images == [1] * 5


def test_vcr_speedup_is_four_passes_over_one() -> None:
    results = bench_vcr("tiny", repeats=1)
    assert results["vcr_speedup"] == results["vcr_seconds/four_passes"] / results["vcr_seconds/once"]


def test_ways_take_turns_and_the_best_time_counts() -> None:
    calls: list[str] = []
    times = {"a": iter([3.0, 1.0]), "b": iter([2.0, 4.0])}

    def measure(name: str) -> float:
        calls.append(name)
        return next(times[name])

    assert best_of_alternating({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2) == {"a": 1.0, "b": 2.0}
    assert calls == ["a", "b", "a", "b"]


def test_the_command_prints_every_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "vcr", "--architecture", "tiny", "--repeats", "1"])
    main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed.keys() == {"vcr_seconds/once", "vcr_seconds/four_passes", "vcr_speedup"}


def test_an_unknown_bench_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "sleep"])
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr().err
    assert all(name in told for name in ("sleep", *BENCHES))
