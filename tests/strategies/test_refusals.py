"""What a strategy cannot do is told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vle_lightning.cli import main

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = ("--model.architecture", "tiny", "--model.init", "null", "--trainer.accelerator", "cpu")


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_3"])
def test_ranking_is_no_task_for_ranks_that_share_weights(
    strategy: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    options = ("--trainer.strategy", strategy, "--trainer.devices", "2")
    assert main(["fit", "--config", str(EXPERIMENTS / "retrieval" / "toy.yaml"), *TINY, *options]) == 2
    told = capsys.readouterr().err
    assert "choose one of auto, ddp, deepspeed_1, deepspeed_2" in told
    assert "which retrieval does not" in told
    assert not (workplace / "checkpoints" / "retrieval-toy").exists()
