"""Our numbers beside the authors', and that the harness fails where it must."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.factories import OLD_PILLOW
from vle_lightning.parity.__main__ import main
from vle_lightning.parity.command import RUNNERS, check_fixtures
from vle_lightning.parity.fixtures import Folder, read_case, read_folders, read_json

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
WHOLE = ROOT.parent / "shared" / "fixtures"
BIAS = "vle.image_projection_layer.bias"

Copied = Callable[[str, str], Path]


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    """Copy a carried folder with one case of it, into a folder of fixtures by itself."""

    def copy(folder: str, case: str) -> Path:
        target = tmp_path / "fixtures" / "of another name"
        (target / "cases").mkdir(parents=True)
        for file in (FIXTURES / folder).glob("*.*"):
            shutil.copy(file, target)
        for file in (FIXTURES / folder / "cases").glob(f"{case}.*"):
            shutil.copy(file, target / "cases")
        return target

    return copy


def report(root: Path) -> tuple[list[str], bool]:
    """Return the lines, and whether all agrees."""
    lines: list[str] = []
    return lines, check_fixtures(root, lines.append).ok


def failed(line: str) -> bool:
    return line.split(" (")[0].endswith(" FAIL")


def failures(root: Path) -> list[str]:
    return [line for line in report(root)[0] if failed(line)]


def change_tensors(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture(scope="module")
def carried() -> tuple[list[str], bool]:
    """The report on all carried folders."""
    return report(FIXTURES)


def test_the_carried_fixtures_agree(carried: tuple[list[str], bool]) -> None:
    lines, agrees = carried
    faults = [line for line in lines if failed(line) and not (OLD_PILLOW and "edge_tokens" in line)]
    assert not faults, "\n".join(faults)
    assert agrees or OLD_PILLOW
    kinds = {read_case(folder, name).kind for folder in read_folders(FIXTURES) for name in folder.case_names()}
    assert kinds == RUNNERS["vle"].keys() - {"VLEForVCRQA2R"}


def test_the_carried_fixtures_are_small_and_free_of_vcr_data() -> None:
    files = [file for file in FIXTURES.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4_000_000
    assert not [file for file in files if b"readme_sample" in file.read_bytes() and file.name != "README.md"]


@pytest.mark.slow
@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole folder of reference fixtures is not here")
def test_the_whole_fixtures_agree() -> None:
    lines, agrees = report(WHOLE)
    assert agrees, "\n".join(line for line in lines if failed(line))


def test_every_recorded_value_has_a_line(carried: tuple[list[str], bool]) -> None:
    lines, _ = carried
    for folder in read_folders(FIXTURES):
        for name in folder.case_names():
            case = read_case(folder, name)
            wanted = [key for key in case.tensors if key.startswith(("output.", "mid."))]
            wanted += [f"grad.{key}" for key in case.content.get("grad_norms", ())]
            said = [line.split()[2] for line in lines if line.startswith(f"{folder.name} {name} ")]
            assert set(wanted) <= set(said), f"{folder.name} {name}"


def test_no_tower_or_fusion_layer_goes_without_a_counterpart(carried: tuple[list[str], bool]) -> None:
    without = [line for line in carried[0] if "no counterpart here" in line]
    assert {line.split()[2] for line in without} == {
        "mid.token_type_embeddings",
        "mid.token_type_embeddings@call2",
        "mid.vision_model.vision_model.post_layernorm",
    }


def test_folders_are_known_by_their_settings_not_by_their_names(copied: Copied) -> None:
    root = copied("vle_vqa", "vqa").parent
    (root / "vle_but_not").mkdir()
    (root / "vle_but_not" / "config.json").write_text('{"config": {}, "arch": {}}')
    lines, agrees = report(root)
    assert not agrees  # it is taken for a VLMo's, and has no cases
    told = [line for line in lines if line.startswith(("skipped", "vle_but_not"))]
    assert told == ["vle_but_not - - - - FAIL (no cases/*.json)"]
    assert any(line.startswith("of another name vqa output.logits") for line in lines)


def test_the_command_exits_with_0_1_or_2(copied: Copied, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied("vle_vqa", "vqa")
    assert main([str(folder.parent)]) == 0
    change_tensors(folder / "model.safetensors", lambda weights: weights[BIAS].add_(0.01))
    assert main([str(folder.parent)]) == 1
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_where_all_is_skipped_nothing_agrees(tmp_path: Path) -> None:
    (tmp_path / "vlmo").mkdir()
    (tmp_path / "vlmo" / "config.json").write_text('{"config": {}, "arch": {}}')
    assert not report(tmp_path)[1]


def test_a_weight_that_is_not_finite_fails(copied: Copied) -> None:
    folder = copied("vle_vqa", "vqa")
    change_tensors(folder / "model.safetensors", lambda weights: weights[BIAS][0].fill_(torch.nan))
    assert any("not finite" in line and "bias" in line for line in failures(folder.parent))


def test_a_missing_weight_fails_by_its_name(copied: Copied) -> None:
    folder = copied("vle_vqa", "vqa")
    change_tensors(folder / "model.safetensors", lambda weights: weights.pop(BIAS))
    assert any("stopped by UserError" in line and BIAS in line for line in failures(folder.parent))


FAULTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "output": (lambda t: t.update({"output.attentions": torch.ones(1)}), "output.attentions - - FAIL (missing"),
    "shape": (
        lambda t: t.update({"output.logits": torch.ones(1)}),
        "output.logits - - FAIL (shape (3, 11) instead of (1,)",
    ),
    "left out": (lambda t: t.pop("output.loss"), "output.loss - - FAIL (missing: the case's JSON names it"),
    "layer": (
        lambda t: t.update({"mid.vle.text_model.encoder.layer.3": torch.ones(1)}),
        "mid.vle.text_model.encoder.layer.3 - - FAIL (missing",
    ),
    "call": (
        lambda t: t.update({"mid.vle.text_projection_layer@call2": torch.ones(1)}),
        "mid.vle.text_projection_layer@call2 - - FAIL (missing",
    ),
    "submodule": (lambda t: t.update({"mid.adapter": torch.ones(1)}), "mid.adapter - - FAIL (unknown"),
    "group": (lambda t: t.update({"state.x": torch.ones(1)}), "state.x - - FAIL (unknown"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_recorded_value_that_is_not_produced_fails(fault: str, copied: Copied) -> None:
    folder = copied("vle_vqa", "vqa")
    change, message = FAULTS[fault]
    change_tensors(folder / "cases" / "vqa.safetensors", change)
    found = failures(folder.parent)
    assert len(found) == 1
    assert message in found[0]


def test_losses_and_gradients_fail_where_they_differ(copied: Copied) -> None:
    folder = copied("vle_vqa", "vqa")
    file = folder / "cases" / "vqa.json"
    recorded = json.loads(file.read_text())
    norms: dict[str, Any] = recorded["grad_norms"]
    norms |= {
        BIAS: norms[BIAS] * 1.002,
        "vqa_classifier.3.bias": None,
        "vle.text_model.pooler": 1.0,
        "other.head": None,
    }
    change_json(file, grad_norms=norms, loss=recorded["loss"] + 1.5e-5)
    said = {line.split()[4] for line in failures(folder.parent)}
    assert said == {"loss", f"grad.{BIAS}", "grad.vqa_classifier.3.bias", "grad.vle.text_model.pooler"}


def test_cases_and_folders_that_are_not_known_fail(copied: Copied) -> None:
    folder = copied("vle_vqa", "vqa")
    change_json(folder / "cases" / "vqa.json", **{"class": "VLEForSNLI"})
    shutil.copy(folder / "cases" / "vqa.safetensors", folder / "cases" / "stray.safetensors")
    (folder.parent / "flava" / "cases").mkdir(parents=True)
    found = failures(folder.parent)
    assert len(found) == 3
    assert "VLEForSNLI - - FAIL (unknown" in found[1]
    assert "stray" in found[2]
    assert found[0].startswith("flava - - - - FAIL")


def test_preprocessing_without_its_model_fails(copied: Copied) -> None:
    folder = copied("vle_preprocess", "pipelines")
    shutil.copytree(FIXTURES / "vle_preprocess" / "images", folder / "images")
    assert "holds a model with 'vqa_classifier'" in failures(folder.parent)[0]


def test_settings_belong_to_the_model_of_their_size_and_of_the_most_alike_name(tmp_path: Path) -> None:
    config = read_json(FIXTURES / "vle_vqa" / "config.json")
    for name, size in {"a_vqa": 32, "b_vqa": 32, "b_pre_vqa": 64, "b_vqa_longer": 32}.items():
        shutil.copytree(FIXTURES / "vle_vqa", tmp_path / name, ignore=shutil.ignore_patterns("cases"))
        config["vision_config"]["image_size"] = size
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    shutil.copytree(FIXTURES / "vle_preprocess", tmp_path / "b_preprocess")
    assert Folder(tmp_path / "b_preprocess", {}).sibling("vqa_classifier").name == "b_vqa"
