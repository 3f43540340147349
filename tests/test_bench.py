"""The two recipes that `make bench` times do the same work."""

from __future__ import annotations

import json

import pytest
import torch

from vle_lightning.bench import LONGEST, PADDED, SHORTEST, bench_step, build, main, our_loss, padded, plain_loss


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


def test_texts_are_8_to_20_tokens_and_padded_to_50_in_the_plain_recipe() -> None:
    _, batch = build("tiny")
    lengths = batch.attention_mask.sum(1)
    assert SHORTEST <= lengths.min() <= lengths.max() == batch.input_ids.shape[1] <= LONGEST
    assert padded(batch).input_ids.shape[1] == padded(batch).mlm_targets.shape[1] == PADDED


@pytest.mark.slow
def test_the_ratio_is_plain_over_ours() -> None:
    results = bench_step("tiny", repeats=1)
    assert results["step_speedup"] == results["step_seconds/plain"] / results["step_seconds/ours"]
    assert results["peak_memory_gib/ours"] > 0


def test_the_command_prints_every_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--architecture", "tiny", "--repeats", "1"])
    monkeypatch.setattr("vle_lightning.bench.bench_step", lambda architecture, repeats: {architecture: repeats})
    main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"tiny": 1}
