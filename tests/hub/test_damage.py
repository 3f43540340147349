"""Damaged weights are found when they are loaded: flipped bits, NaN, broken states; no code of a folder is run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict_saver import save

from tests.factories import run_checkpoint
from vle_lightning.checkpointing.whole import as_file
from vle_lightning.errors import UserError
from vle_lightning.hub.folder import read_plain
from vle_lightning.hub.integrity import check_integrity
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.hub.sharded import WHOLE
from vle_lightning.resuming import check_checkpoint
from vle_lightning.tasks.pretrain import PretrainTask


@pytest.fixture(scope="module")
def task() -> PretrainTask:
    return PretrainTask("tiny", classes=3)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_one_flipped_bit_of_a_checkpoint_is_found(task: PretrainTask, place: float, tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(run_checkpoint(task), file)
    assert check_checkpoint(str(file), task) == 3
    content = bytearray(file.read_bytes())
    content[int(len(content) * place)] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"last.ckpt (is damaged|cannot be read)"):
        read_plain(file, "--ckpt_path")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(task: PretrainTask, value: float, tmp_path: Path) -> None:
    content = run_checkpoint(task)
    name = "model.text_projection.weight"
    content["state_dict"] = {**content["state_dict"], name: content["state_dict"][name].clone()}
    content["state_dict"][name][1, 2] = value
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=rf"not finite.*{name}"):
        check_checkpoint(str(tmp_path / "last.ckpt"), task)
    with pytest.raises(UserError, match=rf"model.init.*not finite.*{name}"):
        PretrainTask("tiny", classes=3, init=str(tmp_path / "last.ckpt"))


def test_an_export_whose_weights_are_not_finite_is_refused(task: PretrainTask, tmp_path: Path) -> None:
    task.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.text_projection.weight"][0, 0] = math.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"loops": 3}, "its loops are a int"),
        ({"loops": {}}, "its loops have no fit_loop"),
        ({"optimizer_states": "x"}, "its optimizer_states are a str"),
        ({"optimizer_states": [{}]}, "its optimizer_states have no 'state'"),
        ({"optimizer_states": []}, "its optimizer_states have no 'state'"),
        ({"optimizer_states": [{"state": {}, "param_groups": 1}]}, "no 'param_groups'"),
        ({"optimizer_states": [{"state": {}, "param_groups": []}]}, r"are of groups of \[\] parameters"),
        ({"lr_schedulers": []}, "it holds 0 lr_schedulers"),
        ({"lr_schedulers": [3]}, "lr_schedulers do not tell"),
        ({"lr_schedulers": [{"last_epoch": math.nan}]}, "lr_schedulers do not tell"),
        ({"lr_schedulers": None}, "its lr_schedulers are a NoneType"),
        ({"global_step": -3}, "its global_step is -3"),
        ({"global_step": 50}, "its global_step is 50, its epoch 0, its loops took 3 steps"),
        ({"global_step": math.inf}, "its global_step are a float"),
        ({"global_step": "x"}, "its global_step are a str"),
        ({"loops": {"fit_loop": None}}, "its loops have no fit_loop"),
        ({"loops": {"fit_loop": {"state_dict": 3}}}, "its loops have no state_dict"),
        ({"callbacks": 3}, "its callbacks are a int"),
        ({"callbacks": {"Health": 7}}, "callback Health is not a mapping"),
        ({"pytorch-lightning_version": 3}, "pytorch-lightning_version are a int"),
        ({"pytorch-lightning_version": "banana"}, "pytorch-lightning_version is 'banana'"),
        ({"pytorch-lightning_version": "0.1.0"}, "pytorch-lightning_version is '0.1.0'"),
        ({"options": 3}, "its options are no mapping"),
        ({"state_dict": {"a": "text"}}, "a of its state_dict is not a tensor"),
    ],
)
def test_a_checkpoint_with_broken_states_is_refused(
    task: PretrainTask, broken: dict[str, Any], told: str, tmp_path: Path
) -> None:
    torch.save(run_checkpoint(task, **broken), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=f"last.ckpt is damaged: .*{told}"):
        check_checkpoint(str(tmp_path / "last.ckpt"), task)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("exp_avg", torch.zeros(1), "for exp_avg of parameter 0 what does not fit it"),
        ("exp_avg", "x", "for exp_avg of parameter 0"),
        ("exp_avg_sq", math.nan, "exp_avg_sq of parameter 0"),
        ("step", "x", "do not tell the step of parameter 0"),
        ("step", torch.tensor(-1.0), "do not tell the step of parameter 0"),
    ],
)
def test_moments_that_do_not_fit_their_parameter_are_refused(
    task: PretrainTask, key: str, value: object, told: str, tmp_path: Path
) -> None:
    content = run_checkpoint(task)
    content["optimizer_states"][0]["state"][0][key] = value
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=f"last.ckpt is damaged: .*{told}"):
        check_checkpoint(str(tmp_path / "last.ckpt"), task)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(task: PretrainTask, dtype: torch.dtype, tmp_path: Path) -> None:
    content = run_checkpoint(task)
    name = "model.text_projection.weight"
    content["state_dict"] = {**content["state_dict"], name: content["state_dict"][name].to(dtype)}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=rf"{name} holds {dtype}"):
        check_checkpoint(str(tmp_path / "last.ckpt"), task)


def test_a_counter_that_is_no_count_is_refused(task: PretrainTask, tmp_path: Path) -> None:
    content = run_checkpoint(task)
    content["loops"]["fit_loop"]["epoch_progress"] = {"total": {"ready": -5}}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"its epoch_progress.total.ready is -5"):
        check_checkpoint(str(tmp_path / "last.ckpt"), task)


def test_any_flipped_bit_of_an_archives_directory_is_damage_and_no_error_of_zipfile(tmp_path: Path) -> None:
    """The last bytes say where the archive's members are, and whether they are encrypted."""
    file = tmp_path / "last.ckpt"
    torch.save({"a": torch.ones(3)}, file)
    sound, refused = file.read_bytes(), []
    for bit in range(8 * (len(sound) - 500), 8 * len(sound), 11):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            check_integrity(file, "--ckpt_path")
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all("is damaged" in told for told in refused)


def test_the_archive_is_read_once_for_several_looks(
    task: PretrainTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(run_checkpoint(task), tmp_path / "last.ckpt")
    looks: list[str] = []
    original = ZipFile.testzip

    def counted(archive: ZipFile) -> str | None:
        looks.append("once")
        return original(archive)

    monkeypatch.setattr(ZipFile, "testzip", counted)
    for _ in range(3):
        read_plain(tmp_path / "last.ckpt", "--ckpt_path")
    assert looks == ["once"]
    torch.save(run_checkpoint(task, epoch=4), tmp_path / "last.ckpt")  # another file of that name
    read_plain(tmp_path / "last.ckpt", "--ckpt_path")
    assert looks == ["once", "once"]


@pytest.mark.parametrize("part", ["__0_0.distcp", "meta.pt"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says that there is one process
def test_one_flipped_bit_of_a_folder_of_parts_is_found(part: str, tmp_path: Path) -> None:
    folder, weights = tmp_path / "last.ckpt", {"a": torch.arange(4096.0), "b": torch.ones(8, 8)}
    save({"state_dict": weights}, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 3, "more": torch.arange(4096.0)}, folder / "meta.pt")
    assert torch.equal(read_plain(folder, "--ckpt_path")["state_dict"]["a"], weights["a"])
    content = bytearray((folder / part).read_bytes())
    content[len(content) // 2] ^= 1  # within a tensor
    (folder / part).write_bytes(content)
    with pytest.raises(UserError, match=rf"--ckpt_path: .*{part} is damaged: "):
        read_plain(folder, "--ckpt_path")
    with pytest.raises(UserError, match=rf"{part} is damaged"):
        as_file(folder, is_first=True)
    assert not (folder / WHOLE).exists()  # it would hold the damage under sound checksums


def test_one_flipped_bit_of_a_part_of_deepspeed_is_found(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    part = tmp_path / "checkpoint" / "mp_rank_00_model_states.pt"
    part.parent.mkdir()
    torch.save({"module": {"a": torch.arange(4096.0)}}, part)
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=r"--ckpt_path: .*_model_states.pt is damaged: "):
        read_plain(tmp_path, "--ckpt_path")
