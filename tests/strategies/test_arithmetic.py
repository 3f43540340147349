"""The large runs' batches and strategies on 1 to 256 GPUs, without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy

from datamodules.sampler import accumulation, micro_batch_size
from vle_lightning.errors import UserError
from vle_lightning.experiment import read_settings
from vle_lightning.strategies.build import STAGES, STRATEGIES, make_strategy
from vle_lightning.strategies.deepspeed import ZeroPrecision, ZeroStrategy
from vle_lightning.strategies.fsdp import ShardedStrategy

EXPERIMENTS = Path(__file__).parents[2] / "experiments" / "pretrain"
MINUTE = 60.0


@pytest.fixture(scope="module", params=["vle_base.yaml", "vle_large.yaml"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(read_settings(["--config", str(EXPERIMENTS / request.param)]))


@pytest.mark.parametrize("devices", [2**power for power in range(9)])
def test_a_step_has_2048_pairs_on_any_power_of_two(devices: int, settings: dict[str, Any]) -> None:
    data = settings["data"]
    assert data["global_batch_size"] == 2048
    count = accumulation(2048, data["batch_size"], devices)
    size = micro_batch_size(2048, data["batch_size"], devices)
    assert devices * count * size == 2048
    assert size <= data["batch_size"]


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        (3, r"or devices 2 or 4$"),
        (7, r"or devices 4 or 8$"),
        (48, r"or devices 32 or 64$"),
    ],
)
def test_other_numbers_are_refused_with_the_nearest_choices(devices: int, told: str, settings: dict[str, Any]) -> None:
    size = settings["data"]["batch_size"]
    below = 2048 // (size * devices) * size * devices
    with pytest.raises(ValueError, match=f"nearest possible: data.global_batch_size {below} or .*{told}"):
        accumulation(2048, size, devices)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("sharded", [False, True])
def test_every_strategy_is_built_without_the_hardware(name: str, sharded: bool) -> None:
    if sharded and name in ("auto", "ddp"):
        with pytest.raises(UserError, match="sharded_checkpoints"):
            make_strategy(name, "gpu", "bf16-mixed", False, MINUTE, sharded)
        return
    strategy, precision = make_strategy(name, "gpu", "bf16-mixed", False, MINUTE, sharded)
    kinds: dict[str, object] = {"ddp": DDPStrategy, "fsdp": ShardedStrategy, "auto": str}
    assert isinstance(strategy, kinds.get(name, ZeroStrategy))  # type: ignore[arg-type]
    assert isinstance(precision, ZeroPrecision) == (name in STAGES)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(("name", "stage"), STAGES.items())
def test_deepspeed_is_configured_by_the_two_options(name: str, stage: int, offload: bool) -> None:
    strategy = make_strategy(name, "gpu", "bf16-mixed", offload, MINUTE).strategy
    assert isinstance(strategy, ZeroStrategy)
    assert isinstance(strategy.config, dict)
    zero = strategy.config["zero_optimization"]
    assert zero["stage"] == stage
    assert ("offload_optimizer" in zero) == offload
    assert ("offload_param" in zero) == (offload and stage == 3)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "auto"])
def test_only_deepspeed_offloads(name: str) -> None:
    with pytest.raises(UserError, match="offload: only deepspeed_1, deepspeed_2, deepspeed_3 can"):
        make_strategy(name, "gpu", "bf16-mixed", True, MINUTE)


def test_an_unknown_strategy_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="there is no 'zero'; choose one of auto, ddp, fsdp, deepspeed_1"):
        make_strategy("zero", "gpu", "bf16-mixed", False, MINUTE)
