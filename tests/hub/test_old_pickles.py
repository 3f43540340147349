"""Checkpoints of Lightning 1.3 name classes beside their weights: the known ones are passed over, nothing is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.factories import dual
from tests.hub.meter_file import meter_weights
from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import from_pretrained

CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
MONITOR = "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor"
ATTRIBUTES = "pytorch_lightning.utilities.parsing.AttributeDict"
READ_ONLY = "sacred.config.custom_containers.ReadOnlyDict"
READ_ONLY_LIST = "sacred.config.custom_containers.ReadOnlyList"
FOREIGN = "elsewhere.things.Thing"
ROOTS = ("pytorch_lightning", "sacred", "elsewhere")


class Command:
    """Would run a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def reduce_read_only(self: Any) -> tuple[Any, ...]:  # noqa: ANN401 (a dictionary or list)
    """Pickle as sacred's read-only containers do."""
    return type(self), ({**self} if isinstance(self, dict) else [*self],)


@contextmanager
def classes(*names: str, base: type[Any] = dict) -> Iterator[list[type[Any]]]:
    """Give classes of these names, whose modules are there as long as this lasts."""
    before = dict(sys.modules)
    made = []
    for name in names:
        module, _, short = name.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            sys.modules[path] = sys.modules.get(path, ModuleType(path))
        parent = list if short.endswith("List") else base
        content: dict[str, Any] = {"__module__": module, "__qualname__": short}
        if short.startswith("ReadOnly"):
            content["__reduce__"] = reduce_read_only
        kind = type(short, (parent,), content)
        setattr(sys.modules[module], short, kind)
        made.append(kind)
    try:
        yield made
    finally:
        for path in sys.modules.keys() - before.keys():
            del sys.modules[path]
        sys.modules.update(before)


def imported() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ROOTS]


@pytest.fixture
def names_before() -> list[str]:
    return imported()


def test_a_file_of_lightning_1_3_loads_and_imports_nothing(tmp_path: Path, names_before: list[str]) -> None:
    names = (CALLBACK, MONITOR, ATTRIBUTES, READ_ONLY, READ_ONLY_LIST)
    with classes(*names) as (callback, monitor, attributes, read_only, read_only_list):
        losses = read_only({"itm": 1, "mlm": 1})
        config = read_only({"num_heads": 2, "loss_names": losses, "drop_rate": 0.2, "datasets": read_only_list(["a"])})
        content = {
            "state_dict": meter_weights(),
            "epoch": 7,
            "callbacks": {callback: {"best_model_score": torch.tensor(1.0), "monitor": "val/the_metric"}, monitor: {}},
            "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []}],
            "hparams_name": "config",
            "hyper_parameters": attributes(config=config),
        }
        torch.save(content, tmp_path / "meter.ckpt")
    encoder, _ = from_pretrained(tmp_path / "meter.ckpt")
    fusion = dual(encoder).config.fusion
    assert (fusion.heads, fusion.dropout) == (2, 0.2)  # read off two dictionaries of those classes
    assert imported() == names_before


def test_a_foreign_class_is_refused_by_name(tmp_path: Path, names_before: list[str]) -> None:
    with classes(FOREIGN) as (thing,):
        torch.save({"state_dict": meter_weights(), "callbacks": {thing: {}}}, tmp_path / "meter.ckpt")
    with pytest.raises(UserError, match=rf"opening it could run code \({FOREIGN}\), and nothing of it was run$"):
        from_pretrained(tmp_path / "meter.ckpt")
    assert imported() == names_before


@pytest.mark.parametrize("place", ["callbacks", "hyper_parameters"])
def test_code_in_a_file_is_refused_by_name_and_not_run(place: str, tmp_path: Path) -> None:
    torch.save({"state_dict": meter_weights(), place: Command(tmp_path / "ran")}, tmp_path / "meter.ckpt")
    with pytest.raises(UserError, match=r"opening it could run code \(\w+\.system\), and nothing of it was run$"):
        from_pretrained(tmp_path / "meter.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("state", [{"mark": 3}, None])
def test_a_callback_that_is_no_class_but_a_whole_object_does_nothing(state: object, tmp_path: Path) -> None:
    with classes(CALLBACK, base=object) as (callback,):
        reduced = (callback, ("touch",)) if state is None else (callback, ("touch",), state)
        setattr(callback, "__reduce__", lambda self: reduced)  # noqa: B010 (mypy takes no assignment)
        torch.save({"state_dict": meter_weights(), "callbacks": [callback()]}, tmp_path / "meter.ckpt")
    assert dual(from_pretrained(tmp_path / "meter.ckpt")[0]).config.fusion.heads == 1  # no options: of 64 numbers
