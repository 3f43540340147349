"""Folders that each rank writes a part of: every command takes them, and no code in them runs."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.strategies.runs import EXPERIMENT, HALF, fit, run, second_halves
from vle_lightning.errors import UserError
from vle_lightning.hub.sharded import check_parts, is_sharded, read_sharded

SHARDED = ("--sharded_checkpoints", "true")
STRATEGIES = ("fsdp", "deepspeed_2", "deepspeed_3")


class Evil:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("it ran",))


def test_an_index_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    assert is_sharded(tmp_path)
    with pytest.raises(UserError, match="is refused, nothing of it was run: its index names builtins.print"):
        read_sharded(tmp_path, "--ckpt_path")
    assert "it ran" not in capsys.readouterr().out


def test_a_part_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint").mkdir()
    torch.save({"module": Evil()}, tmp_path / "checkpoint" / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match="is refused"):
        read_sharded(tmp_path, "--ckpt_path")
    with pytest.raises(UserError, match="cannot be read back"):
        check_parts(tmp_path)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", [".metadata", "checkpoint"])
def test_a_folder_without_its_parts_is_told(name: str, tmp_path: Path) -> None:
    if name == "checkpoint":
        (tmp_path / name).mkdir()
    else:
        buffer = io.BytesIO()
        torch.save({}, buffer)
        (tmp_path / name).write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=str(tmp_path)):
        read_sharded(tmp_path, "--ckpt_path")


@pytest.fixture(scope="module", params=STRATEGIES)
def sharded(request: pytest.FixtureRequest, alone: Path) -> Path:
    """The run folder of two ranks that write folders."""
    name: str = request.param
    return fit(f"sharded_{name}", name, 2, *SHARDED)


@pytest.mark.slow
def test_a_folder_exports_to_the_weights_of_one_process(sharded: Path, alone: Path, tmp_path: Path) -> None:
    last = sharded / "last.ckpt"
    assert last.is_dir()
    for source, target in ((alone / "last.ckpt", "alone"), (last, "sharded")):
        run("export", str(source), "--to", str(tmp_path / target))
    expected, actual = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "sharded"))
    assert expected.keys() == actual.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_a_run_goes_on_from_a_folder(sharded: Path, alone: Path) -> None:
    strategy = sharded.name.removeprefix("sharded_")
    other = "deepspeed_1" if strategy == "fsdp" else "fsdp"
    for name, chosen, devices, options in (
        ("one", "auto", 1, ()),
        ("again", strategy, 2, SHARDED),
        ("other", other, 2, ()),
    ):
        actual, expected = second_halves(sharded, f"{sharded.name}_{name}", chosen, devices, alone, *options)
        assert actual == pytest.approx(expected, rel=1e-4), name


@pytest.mark.slow
def test_every_command_takes_a_folder(sharded: Path, tmp_path: Path) -> None:
    folder = sharded / f"step_{HALF:06}.ckpt"
    shutil.rmtree(tmp_path)
    shutil.copytree(sharded, tmp_path, symlinks=True)
    here = ("--run_root", str(tmp_path.parent), "--run_name", tmp_path.name, "--trainer.devices", "1")
    for command in ("validate", "predict"):
        run(command, "--config", *EXPERIMENT, *here, "--ckpt_path", str(tmp_path / folder.name))
    assert json.loads((tmp_path / "predictions.json").read_text())
    spread = ("--trainer.strategy", sharded.name.removeprefix("sharded_"), "--trainer.devices", "2")
    run("validate", "--config", *EXPERIMENT, *here, *spread, "--ckpt_path", str(tmp_path / folder.name))
    run("fit", "--config", *EXPERIMENT, "--run_name", f"{sharded.name}_init", "--model.init", str(folder), *FEW)


FEW = ("--trainer.max_steps", "1", "--trainer.devices", "1", "--validate_every", "1")
