"""A config.json with a value that cannot be is refused by file and key, in both layouts, before anything is built."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.factories import dual, of_kind
from tests.hub.published import publish, published_weights
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.errors import UserError
from vle_lightning.hub.checks import check_values, fits, value_faults, with_floats
from vle_lightning.hub.pretrained import read_pretrained
from vle_lightning.tasks.vqa import VQATask

NAMES = {"0": "yes", "1": "no", "2": "two"}


@dataclass(frozen=True)
class Sizes:
    width: int = 8
    heads: int = 2
    dropout: float | None = 0.1
    activation: str = "gelu"


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        (3, int, True),
        (3.0, int, False),
        ("3", int, False),
        (True, int, False),
        (3, float, True),
        (float("nan"), float, False),
        (float("inf"), float, False),
        (False, float, False),
        (True, bool, True),
        (None, int | None, True),
        (None, int, False),
        (["a"], list[str] | None, True),
        (["a", 1], list[str], False),
        ("ab", list[str], False),
        ({"a": 1}, dict[str, float], True),
        ({"a": "1"}, dict[str, float], False),
        ([], dict[str, float], False),
        ("q2a", Literal["q2a", "qa2r"], True),
        (["q2a"], Literal["q2a", "qa2r"], False),
        ({"width": 3}, Sizes, True),
        (3, Sizes, False),
    ],
)
def test_values_fit_hints_as_json_knows_them(value: object, hint: object, wanted: bool) -> None:
    assert fits(value, hint) is wanted


def test_each_fault_is_told_by_the_name_in_the_file() -> None:
    values = {"width": -8, "heads": "2", "dropout": 1, "activation": "gelo"}
    told = value_faults(Sizes, values, {name: f"their_{name}" for name in values}.__getitem__)
    assert [line.split(":")[0] for line in told] == [
        "their_width = -8",
        "their_heads = '2'",
        "their_dropout = 1",
        "their_activation = 'gelo'",
    ]
    assert value_faults(Sizes, {"heads": 3, "width": 8}) == ["heads = 3: must divide width = 8"]
    assert value_faults(Sizes, {"heads": 4, "width": 8, "dropout": None, "other": "?"}) == []
    with pytest.raises(UserError, match="FILE: width = 'aaaa.*aaa...: give a whole number$"):
        check_values(Sizes, {"width": "a" * 500}, "FILE")


def test_whole_numbers_become_floats_where_these_are_wanted() -> None:
    turned = with_floats(Sizes, {"width": 8, "dropout": 0, "activation": "gelu"})
    assert turned == {"width": 8, "dropout": 0.0, "activation": "gelu"}
    assert isinstance(turned["dropout"], float)
    assert isinstance(turned["width"], int)
    assert with_floats(Sizes, {"dropout": None}) == {"dropout": None}


def edit(folder: Path, path: str, value: object) -> Path:
    """Change one value of a folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    *parents, key = path.split(".")
    part: dict[str, Any] = config
    for parent in parents:
        part = part[parent]
    part[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hidden_size", "8"),
        ("hidden_size", -8),
        ("hidden_size", 10**30),
        ("hidden_size", True),
        ("num_token_types", 1),
        ("initializer_range", "small"),
        ("architectures", 3),
        ("layer_norm_eps", None),
        ("attention_probs_dropout_prob", None),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("text_config.num_attention_heads", 0),
        ("text_config.num_attention_heads", 5),
        ("text_config.num_hidden_layers", 1.5),
        ("text_config.hidden_dropout_prob", 1.5),
        ("text_config.vocab_size", []),
        ("text_config.conv_kernel_size", 2),
        ("text_config.conv_act", "tan"),
        ("vision_config.hidden_act", "quick_gelo"),
        ("vision_config.hidden_act", ["gelu"]),
        ("vision_config.patch_size", 7),
        ("vision_config.patch_size", 0),
        ("vision_config.image_size", {}),
    ],
)
def test_a_published_value_that_cannot_be_is_named(path: str, value: object, tmp_path: Path) -> None:
    folder = edit(publish(tmp_path, published_weights("vqa_classifier"), id2label=NAMES), path, value)
    with pytest.raises(UserError, match=rf"source: .*config\.json describes .*\n  {path} (= |is null)"):
        read_pretrained(folder)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"0": "yes", "2": "two", "3": "no"}, "numbered from 0 to 2; it lacks 1 and has 3"),
        ({"0": "yes", "one": "no", "2": "two"}, "it lacks 1 and has one"),
        ({"0": "yes", "01": "no", "2": "two"}, "it lacks 1 and has 01"),
        ({"0": "yes", "1": None, "2": "two"}, "from numbers to texts"),
        (["yes", "no", "two"], "from numbers to texts"),
    ],
)
@pytest.mark.parametrize("head", ["vqa_classifier", "itm_score"])
def test_answers_with_gaps_are_named(names: object, told: str, head: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"config\.json: id2label must be .*{told}"):
        read_pretrained(publish(tmp_path, published_weights(head), id2label=names))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("architecture", "tiny", "architecture = 'tiny': give an object"),
        ("architecture.init_std", None, "architecture: init_std = None: give a number"),
        ("architecture.text.heads", 0, "architecture.text: heads = 0: must be at least 1"),
        ("architecture.text.heads", 3, "architecture.text: heads = 3: must divide width = 32"),
        ("architecture.text.width", "32", "architecture.text: width = '32': give a whole number"),
        ("architecture.text.layers", None, "architecture.text: layers = None: give a whole number"),
        ("architecture.image.activation", "gelo", "architecture.image: activation = 'gelo': no such activation"),
        ("architecture.image.patch_size", 7, "architecture.image: patch_size = 7: must divide image_size = 48"),
        ("architecture.fusion.token_types", -1, "architecture.fusion: token_types = -1: must be at least 2"),
        ("architecture.fusion.dropout", -0.1, "architecture.fusion: dropout = -0.1: must be at least 0"),
        ("format_version", "1", "format_version '1'"),
        ("format_version", -1, "format_version -1"),
        ("task", 3, "task = 3: give a text"),
        ("labels", "abc", "labels = 'abc': give a list, of each a text or null"),
        ("heads", {"vqa_classifier": 1}, "heads = {'vqa_classifier': 1}: give an object, under each key a text"),
        ("options", [1], r"options = \[1\]: give an object"),
        ("options.blind", "half", "options: blind = 'half': give one of none, image, text"),
        ("published", {}, "published must hold the config"),
        ("published", {"config": {}}, "published.config must hold the objects text_config and vision_config"),
        ("published", {"config": {}, "more": 1}, "published holds unknown options: more"),
    ],
)
def test_a_value_of_ours_that_cannot_be_is_named(path: str, value: object, told: str, tmp_path: Path) -> None:
    VQATask("tiny", answers=3).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"source: .*config\.json(: | has ).*{told}"):
        read_pretrained(edit(tmp_path, path, value))


def test_what_is_carried_along_is_checked_as_well(tmp_path: Path) -> None:
    source = publish(tmp_path / "source", published_weights("vqa_classifier"), id2label=NAMES)
    VQATask.from_pretrained(source).save_pretrained(tmp_path / "own")
    edit(tmp_path / "own", "published.config.text_config.hidden_size", "12")
    with pytest.raises(UserError, match=r"published\.config describes .*\n  text_config.hidden_size = '12'"):
        read_pretrained(tmp_path / "own")


def test_zeros_without_a_point_are_read_as_floats(tmp_path: Path) -> None:
    source = publish(tmp_path, published_weights("vqa_classifier"), id2label=NAMES)
    edit(source, "text_config.hidden_dropout_prob", 0)
    edit(source, "vision_config.layer_norm_eps", 0)
    task = VQATask.from_pretrained(source)
    config = dual(task.model).config
    assert isinstance(of_kind(DebertaConfig, config.text).dropout, float)
    assert isinstance(of_kind(ClipViTConfig, config.image).layer_norm_eps, float)


@pytest.mark.parametrize("path", ["text_config.hidden_size", "text_config.num_hidden_layers", "intermediate_size"])
def test_a_network_far_larger_than_its_weights_is_not_built(path: str, tmp_path: Path) -> None:
    folder = edit(publish(tmp_path, published_weights("vqa_classifier"), id2label=NAMES), path, 2**20)
    config = json.loads((folder / "config.json").read_text())
    if path == "intermediate_size":
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 2**20}))
    with pytest.raises(UserError, match="source: .* describes an encoder of at least .* parameters, but holds "):
        VQATask.from_pretrained(folder)
