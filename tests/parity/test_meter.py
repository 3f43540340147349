"""Parity with METER: a wrong value fails by its name; with the authors' fixtures, where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity.meter_restated import write_reference
from vle_lightning.parity.command import check_fixtures
from vle_lightning.parity.intermediates import METER_TABLES, Pass, Place, Side, check_intermediate, locate

WHOLE = Path(__file__).parents[3] / "shared" / "fixtures"
BLOCK = "vit_model.visual.transformer.resblocks.1"
Copied = Callable[[str, str], Path]


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    """Copy a folder of the authors' with one case of it."""

    def copy(folder: str, case: str) -> Path:
        if not (WHOLE / folder).is_dir():
            pytest.skip(f"the reference fixtures of METER are not in {WHOLE}")
        target = tmp_path / "fixtures" / "of another name"
        (target / "cases").mkdir(parents=True)
        files = [*(WHOLE / folder).glob("*.*"), *(WHOLE / folder / "cases").glob(f"{case}.*")]
        for file in files:
            place = target / file.relative_to(WHOLE / folder)
            place.write_bytes(file.read_bytes())  # not their modes: they are read-only
        return target

    return copy


def failures(root: Path) -> list[str]:
    lines: list[str] = []
    check_fixtures(root, lines.append)
    return [line for line in lines if line.split(" (")[0].endswith(" FAIL")]


def change(folder: Path, case: str, key: str, make: Callable[[Tensor], Tensor]) -> None:
    file = folder / "cases" / f"{case}.safetensors"
    tensors = load_file(file)
    save_file({**tensors, key: make(tensors[key]).contiguous()}, file)


def off_by(number: float) -> Callable[[Tensor], Tensor]:
    """Change one value of a tensor."""

    def make(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] += number
        return changed

    return make


# Without the authors' numbers


def test_blocks_of_clip_are_compared_sequence_first() -> None:
    place = Place("image.encoder.layers.1", Side.IMAGE, "output", 1, sequence_first=True)
    assert locate(BLOCK, METER_TABLES) == place
    states = torch.randn(3, 5, 4)
    recording, run = {("image.encoder.layers.1", "output"): [states]}, Pass(torch.ones(3, 7, dtype=torch.bool))
    assert check_intermediate(BLOCK, states.transpose(0, 1), recording, run, METER_TABLES).ok
    check = check_intermediate(BLOCK, states, recording, run, METER_TABLES)
    assert not check.ok
    assert "shape (5, 3, 4) instead of (3, 5, 4)" in str(check)


@pytest.mark.parametrize(
    ("published", "module"),
    [
        ("vit_model", "image.post_norm"),
        ("vit_model.visual.conv1", "image.patch_embedding"),
        ("text_transformer.encoder.layer.11", "text.model.encoder.layer.11"),
        ("cross_modal_text_layers.5@call2", "fusion.text.5"),
        ("cross_modal_image_transform", "image_projection"),
    ],
)
def test_meters_submodules_are_found(published: str, module: str) -> None:
    place = locate(published, METER_TABLES)
    assert isinstance(place, Place)
    assert place.module == module
    assert not place.sequence_first


def test_what_stands_in_no_table_of_meters_is_a_failure() -> None:
    assert locate("adapter", METER_TABLES) is None
    assert "without a look-up" in str(locate("token_type_embeddings@call2", METER_TABLES))
    check = check_intermediate("adapter", torch.ones(1), {}, Pass(torch.ones(1, 1, dtype=torch.bool)), METER_TABLES)
    assert not check.ok


def test_a_folder_of_meters_without_cases_or_with_an_unknown_one_fails(tmp_path: Path) -> None:
    cases = tmp_path / "any name" / "cases"
    cases.mkdir(parents=True)
    (tmp_path / "any name" / "config.json").write_text(json.dumps({"config": {}, "text": {}, "vision": {}}))
    assert failures(tmp_path) == ["any name - - - - FAIL (no cases/*.json)"]
    (cases / "gqa.json").write_text(json.dumps({"call": "objectives.compute_gqa"}))
    found = failures(tmp_path)
    assert len(found) == 1
    assert "any name gqa gqa - - FAIL (unknown: this harness runs infer," in found[0]


# With them


def test_a_case_as_the_authors_ran_it_agrees(copied: Copied) -> None:
    folder = copied("meter_clip_roberta", "infer")
    lines: list[str] = []
    assert check_fixtures(folder.parent, lines.append).ok
    without = {line.split()[4] for line in lines if "no counterpart here" in line}
    assert without <= {"mid.token_type_embeddings", "mid.token_type_embeddings@call2"}


@pytest.mark.parametrize(
    ("folder", "case", "key"),
    [
        ("meter_clip_roberta", "infer", "output.image_feats"),
        ("meter_clip_roberta", "infer", f"mid.{BLOCK}"),
        ("meter_clip_roberta", "infer", "mid.cross_modal_text_layers.0"),
        ("meter_clip_roberta", "snli", "output.snli_logits"),
        ("meter_clip_roberta", "irtr", "output.rank_scores"),
        ("meter_clip_roberta", "infer_larger_image", "output.cls_feats"),
        ("meter_clip_roberta", "adapt_position_encoding", "output.after_40"),
        ("meter_nlvr2", "nlvr2", "output.nlvr2_logits"),
        ("meter_nlvr2", "infer_image_1", "output.cls_feats"),
        ("meter_nlvr2", "token_type_extension", None),
    ],
)
def test_one_wrong_value_fails_alone(folder: str, case: str, key: str | None, copied: Copied) -> None:
    target = copied(folder, case)
    name = key or next(k for k in load_file(target / "cases" / f"{case}.safetensors") if k.startswith("output."))
    change(target, case, name, off_by(1e-3))
    found = failures(target.parent)
    assert len(found) == 1
    assert f" {name} " in found[0]


def test_blocks_that_are_given_batch_first_fail(copied: Copied) -> None:
    folder = copied("meter_clip_roberta", "infer")
    change(folder, "infer", f"mid.{BLOCK}", lambda value: value.transpose(0, 1))
    found = failures(folder.parent)
    assert len(found) == 1
    assert f"mid.{BLOCK} - - FAIL (shape (17, 3, 64) instead of (3, 17, 64)" in found[0]


def test_losses_and_gradients_fail_where_they_differ(copied: Copied) -> None:
    folder = copied("meter_clip_roberta", "mlm")
    file = folder / "cases" / "mlm.json"
    content = json.loads(file.read_text())
    norms = content["grad_norms"]
    fused = f"{BLOCK}.attn.in_proj_weight"  # three of our parameters
    read, unread = "cross_modal_text_layers.0.output.dense.weight", "cross_modal_image_layers.1.output.dense.weight"
    assert norms[unread] is None
    content["grad_norms"] = {**norms, fused: norms[fused] * 1.002, read: None, unread: 0.5, "other.weight": 1.0}
    file.write_text(json.dumps({**content, "loss": content["loss"] + 5e-5}))
    names = {fused, read, unread, "other.weight"}
    assert {line.split()[4] for line in failures(folder.parent)} == {"loss", *(f"grad.{name}" for name in names)}


def test_a_weight_that_is_missing_fails_by_meters_name(copied: Copied) -> None:
    folder = copied("meter_nlvr2", "nlvr2")
    weights = load_file(folder / "model.safetensors")
    del weights["cross_modal_image_transform.bias"]
    save_file(weights, folder / "model.safetensors")
    found = failures(folder.parent)
    assert len(found) == 1
    assert "stopped by UserError" in found[0]
    assert "cross_modal_image_transform.bias is missing" in found[0]


def test_a_copy_of_one_folder_is_known_by_its_settings(copied: Copied) -> None:
    root = copied("meter_nlvr2", "infer_image_1").parent
    shutil.move(str(root / "of another name"), root / "vle_no_it_is_not")
    assert failures(root) == []


# With a restatement of METER


def test_all_that_a_restatement_of_meter_computes_is_computed_here(tmp_path: Path) -> None:
    """Outputs, losses, layers and the gradient norm of every tensor of the file, in all of METER's objectives."""
    write_reference(tmp_path)
    lines: list[str] = []
    agrees = check_fixtures(tmp_path, lines.append).ok
    assert agrees, "\n".join(line for line in lines if " FAIL" in line)
    cases = {line.split()[1] for line in lines[:-1]}  # the last one counts
    assert cases == {"infer", "mlm", "itm", "vqa", "snli", "irtr", "nlvr2"}
    assert sum(" grad." in line for line in lines) > 1000
    assert not any("no counterpart" in line for line in lines)
