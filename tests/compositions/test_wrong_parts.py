"""What is wrong with a part ends in one sentence with exit code 2, before any data is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from datamodules.base import VisionLanguageDataModule
from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.experiment import read_settings
from vle_lightning.tasks.pretrain import PretrainTask

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "pretrain" / "toy.yaml"
SWIN = {"kind": "timm_image", "name": "swin_tiny_patch4_window7_224"}
SMALL_SWIN = {**SWIN, "options": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}}
VIT = {"kind": "timm_image", "name": "vit_base_patch16_siglip_224"}
TEXT = {"kind": "hf_text", "pad_token_id": 0}

WRONG: dict[str, tuple[object, str]] = {
    "a list": ([1, 2], "model.architecture is [1, 2]; give the name of a preset, or options (key: value)"),
    "a number": (3, "model.architecture is 3; give the name of a preset"),
    "no preset": ({"preset": 3}, "no preset 3; choose one of tiny, toy"),
    "no parts": ({}, "must hold the parts text, image, fusion"),
    "unknown backbone": ({"kind": "no_such"}, "model.architecture.kind is 'no_such'; choose dual_stream"),
    "preset of another kind": ({"preset": "tiny", "kind": "presets"}, "does not define one BackboneConfig"),
    "unknown field": ({"preset": "tiny", "colour": 1}, "holds unknown options: colour"),
}
PARTS: dict[str, tuple[dict[str, object], str]] = {
    "kind is a number": ({"text": {"kind": 3}}, "model.architecture.text.kind is 3; give the name of a module"),
    "part is a number": ({"text": 5}, "model.architecture.text holds options (key: value), not 5"),
    "unknown kind": ({"text": {"kind": "no_such"}}, "choose deberta, hf_text, word_embeddings, or name a module"),
    "kind of another part": ({"fusion": {"kind": "hf_text"}}, "fusion.kind is 'hf_text'; choose co_attention"),
    "kind that is not a name": ({"text": {"kind": "../x"}}, "model.architecture.text.kind is '../x'"),
    "a module without a part": ({"text": {"kind": "os.path"}}, "does not define one TextEncoderConfig"),
    "unknown field": ({"text": {"layerss": 3}}, "model.architecture.text holds unknown options: layerss"),
    "field of another kind": ({"text": {**TEXT, "position_buckets": 3}}, "unknown options: position_buckets"),
    "vocabulary": ({"text": {**TEXT, "vocab_size": 20}}, "data.tokenizer has 79 tokens"),
    "short positions": ({"text": {**TEXT, "max_positions": 8}}, "data.max_text_length is 32"),
    "heads": ({"text": {**TEXT, "heads": 5}}, "heads = 5: must divide width = 32"),
    "no layers": ({"text": {**TEXT, "layers": 0}}, "layers = 0: must be at least 1"),
    "negative": ({"text": {**TEXT, "width": -4}}, "model.architecture.text.width is -4"),
    "options are a list": ({"text": {**TEXT, "options": [1]}}, "options = [1]: give an object"),
    "unknown option": ({"text": {**TEXT, "options": {"colour": 1}}}, "which a roberta does not have"),
    "padding": ({"text": {**TEXT, "pad_token_id": 999}}, "pad_token_id 999 is not a token of a vocabulary of 256"),
    "no encoder": ({"text": {**TEXT, "type": "gpt2"}}, "gpt2 is not an encoder of text alone"),
    "no model": ({"image": {**VIT, "name": "no_such"}}, "timm has no such model"),
    "no transformer": ({"image": {**VIT, "name": "resnet50"}}, "resnet50 is not a vision transformer"),
    "picture size": (
        {"image": {**VIT, "image_size": 50, "options": {"depth": 1}}},
        "50 pixels are no multiple of the patches",
    ),
    "windows": ({"image": {**SMALL_SWIN, "image_size": 52}}, "52 pixels are no multiple of the patches"),
    "timm's options": ({"image": {**VIT, "options": {"colour": 3}}}, "timm cannot build"),
    "patches of the data": ({"image": {**VIT, "options": {"depth": 1}}}, "data.patch_size is 8"),
    "merged heads": ({"fusion": {"kind": "merged_attention", "heads": 5}}, "heads = 5: must divide width = 32"),
    "merged layers": ({"fusion": {"kind": "merged_attention", "layers": 0}}, "layers = 0: must be at least 1"),
    "decoder heads": ({"decoder": {"heads": 5}}, "decoder: heads = 5: must divide the fusion's width = 32"),
    "decoder layers": ({"decoder": {"layers": 0}}, "layers = 0: must be at least 1"),
    "short decoder": ({"decoder": {"heads": 4, "max_positions": 4}}, "data.max_text_length is 32"),
}
BY_THE_COMMAND = (  # what parsing or the data tells, and two that building the model tells
    "a list",
    "a number",
    "negative (part)",
    "vocabulary (part)",
    "short positions (part)",
    "short decoder (part)",
    "patches of the data (part)",
    "unknown kind (part)",
    "no model (part)",
)
ALL = WRONG | {f"{name} (part)": ({"preset": "tiny", **parts}, told) for name, (parts, told) in PARTS.items()}


@pytest.fixture(scope="module", autouse=True)
def _in_the_workplace(workplace: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(workplace)
        yield


@pytest.mark.parametrize("name", [name for name in ALL if name not in BY_THE_COMMAND[:-2]])
def test_the_task_tells_it_in_one_sentence(name: str) -> None:
    architecture: Any = ALL[name][0]
    with pytest.raises(UserError) as told:
        PretrainTask(architecture)
    assert ALL[name][1] in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in BY_THE_COMMAND else pytest.mark.slow) for name in ALL]
)
def test_what_is_wrong_is_one_sentence_before_data_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture, told = ALL[name]
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump({"model": {"architecture": architecture}}))
    with patch.object(VisionLanguageDataModule, "setup", side_effect=AssertionError("data was read")):
        assert main(["fit", "--config", str(EXPERIMENT), "--config", str(file), "--run_name", "never"]) == 2
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if not line.startswith(("INFO", "Seed set"))]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert told in lines[0]
    assert not Path("checkpoints/never").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def x(:", "SyntaxError: invalid syntax"),
        ("import no_such_module_of_mine", "ModuleNotFoundError: No module named 'no_such_module_of_mine'"),
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    ],
)
def test_a_part_of_ones_own_that_cannot_be_imported_says_why(
    content: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_part.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        PretrainTask({"preset": "tiny", "text": {"kind": "broken_part"}})
    assert f"text.kind: the module broken_part cannot be imported: {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


OPTION = "--model.architecture"


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        ("tiny", {".text.layers": "3"}, {"preset": "tiny", "text": {"layers": 3}}),
        ("tiny", {".fusion.kind": "merged_attention"}, {"preset": "tiny", "fusion": {"kind": "merged_attention"}}),
        (None, {".text.dropout": "1e-1"}, {"preset": "toy", "text": {"dropout": 0.1}}),  # the experiment's own
        (
            {"preset": "tiny", "fusion": {"kind": "merged_attention", "layers": 2}},
            {".fusion.layers": "1", ".decoder": "{heads: 4}"},
            {"preset": "tiny", "fusion": {"kind": "merged_attention", "layers": 1}, "decoder": {"heads": 4}},
        ),
        (
            "toy",
            {"": "tiny", ".text.kind": "hf_text", ".text.options.hidden_act": "relu", ".text.pad_token_id": "0"},
            {
                "preset": "tiny",
                "text": {"kind": "hf_text", "options": {"hidden_act": "relu"}, "pad_token_id": 0},
            },
        ),
        ({"preset": "toy", "decoder": {}}, {"": "tiny"}, "tiny"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_single_options_change_what_was_given_before_them(
    given: object, options: dict[str, str], expected: object, joined: bool, tmp_path: Path
) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(yaml.safe_dump({} if given is None else {"model": {"architecture": given}}) or "{}")
    pairs = [(f"{OPTION}{name}", value) for name, value in options.items()]
    words = [f"{name}={value}" for name, value in pairs] if joined else [word for pair in pairs for word in pair]
    settings: Any = read_settings(["--config", str(EXPERIMENT), "--config", str(file), *words])
    assert settings["model"]["architecture"] == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((f"{OPTION}.text.layerss", "3"), "model.architecture.text holds unknown options: layerss"),
        ((f"{OPTION}.text", "5"), "model.architecture.text holds options (key: value), not 5"),
        ((f"{OPTION}.text.layers", "many"), "layers = 'many': give a whole number"),
        ((f"{OPTION}.text.layers.more", "3", f"{OPTION}.text.layers.more.still", "4"), "it holds no option still"),
        ((OPTION, "[1]"), "model.architecture is [1]; give the name of a preset"),
        ((f"{OPTION}.nope", "1"), "holds unknown options: nope"),
    ],
)
def test_wrong_single_options_are_told(options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(EXPERIMENT), *options, "--run_name", "never"]) == 2
    message = capsys.readouterr().err
    assert "error: command line: model.architecture" in message
    assert told in message
    assert "Traceback" not in message
