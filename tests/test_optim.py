"""Learning rates and weight decay of the recipes, against METER's, VLE's and VLMo's rule by parts of a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from tests.compositions.recipes import LAYER, TEXT
from vle_lightning.callbacks.health import can_skip
from vle_lightning.hub import meter, vle, vlmo
from vle_lightning.optim import OptimConfig, make_optimizer, parameter_groups
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.vqa import VQATask

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TINY: dict[str, dict[str, Any]] = {
    "meter-clip16-roberta": {"text": {**TEXT, "options": {}}, "image": {"image_size": 48, "patch_size": 8, **LAYER}},
    "meter-swin-roberta": {
        "text": {**TEXT, "options": {}},
        "image": {
            "image_size": 96,
            "name": "swin_tiny_patch4_window7_224",
            "options": {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 1, 1]},
        },
    },
    "vle-base": {"text": {"position_buckets": 8, **TEXT}, "image": {"image_size": 48, "patch_size": 8, **LAYER}},
}
TINY["vle-large"] = TINY["vle-base"]
EXPERTS = {"image_size": 48, "patch_size": 8, "vocab_size": 200, "width": 16, "layers": 2, "heads": 2}
TINY |= {f"vlmo-{size}": {**EXPERTS, "intermediate": 32, "fusion_layers": 1} for size in ("base", "base-plus", "large")}


class Rates(NamedTuple):
    """Published values: METER's meter/config.py, VLE's README and examples/VQA/vqa_train_config.json."""

    lr: float
    head: float
    cross_modal: float = 5.0


METER = {
    "pretrain": Rates(1e-5, 5.0),
    "vqa": Rates(5e-6, 50.0),
    "nlvr2": Rates(1e-5, 10.0),
    "snli_ve": Rates(2e-6, 10.0),
    "retrieval": Rates(5e-6, 5.0),
}
VLMO = {  # vlmo/config.py
    "pretrain": {"base": Rates(2e-4, 1.0), "base_plus": Rates(1e-4, 1.0), "large": Rates(5e-5, 1.0)},
    "vqa": {"base": Rates(3e-5, 20.0), "base_plus": Rates(3e-5, 20.0), "large": Rates(1.5e-5, 20.0)},
    "nlvr2": {"base": Rates(5e-5, 1.0), "base_plus": Rates(3e-5, 1.0), "large": Rates(3e-5, 1.0)},
    "dual_retrieval": {"base": Rates(3e-5, 1.0), "base_plus": Rates(3e-5, 1.0), "large": Rates(2e-5, 1.0)},
}
VLE = {"vqa": Rates(7e-6, 50.0), "vcr": Rates(1e-5, 5.0)}
# meter_utils.set_schedule, VLE's vqav2_train_module.py after it, and vlmo_utils.set_schedule before both
HEADS = ["vqa_classifier", "nlvr2_classifier", "mlm_score", "itm_score", "snli_classifier"]
HEADS += ["vcr_q2a_logit", "vcr_qa2r_logit"]  # VLE's; its code for VCR is not published
NO_DECAY = ["bias", "LayerNorm.bias", "LayerNorm.weight", "norm.bias", "norm.weight"]
NO_DECAY += ["norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight"]
CLIP_NORMS = (".ln_pre.weight", ".ln_post.weight", ".ln_1.weight", ".ln_2.weight")  # decayed there, here not


def build(file: Path) -> VisionLanguageTask:
    """Build the task of an experiment file at a tiny width, from nowhere."""
    model = yaml.safe_load(file.read_text())["model"]
    given = model["architecture"]
    given = {"preset": given} if isinstance(given, str) else given
    fusion = {} if given["preset"].startswith("vlmo") else {"fusion": given.get("fusion", {}) | LAYER}
    small = TINY[given["preset"]] | fusion
    own: dict[str, Any] = {
        "architecture": given | small,
        "optim": OptimConfig(**model["optim"]),
    }
    if "answers" in model:
        own["answers"] = 7
    options = {key: value for key, value in model.items() if not key.endswith("init")}
    task = import_module(f"vle_lightning.tasks.{file.parent.name}").Task(**(options | own))
    assert isinstance(task, VisionLanguageTask)
    return task


HEAD_NAMES: dict[str, Callable[[str], str]] = {"meter": meter.meter_name, "vle": str, "vlmo": vlmo.vlmo_name}
ENCODER_NAMES: dict[str, Callable[[str], str | None]] = {
    "meter": meter.published_name,
    "vle": vle.published_name,
    "vlmo": vlmo.published_name,
}


def published_names(task: VisionLanguageTask, source: str) -> dict[int, str]:
    """Return the published name of each parameter by the parameter's id; that of the backbone comes before a head's."""
    names = {}
    for name, head in task.heads().items():
        for key, parameter in head.named_parameters():
            names[id(parameter)] = HEAD_NAMES[source](f"{name}.{key}")
    for key, parameter in task.model.named_parameters():
        found = ENCODER_NAMES[source](key)
        assert found is not None, key
        names[id(parameter)] = found
    return names


def recipes() -> Iterator[Any]:
    for source, published in (("meter", METER), ("vle", VLE)):
        for task, rates in published.items():
            for file in sorted((EXPERIMENTS / task).glob(f"{source}_*.yaml")):
                yield pytest.param(file, source, rates, id=f"{task}/{file.stem}")
    for task, sizes in VLMO.items():
        for file in sorted(f for f in (EXPERIMENTS / task).glob("vlmo_*.yaml") if size_of(f) in sizes):
            yield pytest.param(file, "vlmo", sizes[size_of(file)], id=f"{task}/{file.stem}")


def size_of(file: Path) -> str:
    """Return the size that a recipe of VLMo's is for."""
    return re.sub(r"^vlmo_|_coco$|_flickr30k$", "", file.stem)


@pytest.mark.parametrize(("file", "source", "published"), recipes())
def test_each_parameter_has_the_rate_and_the_decay_of_the_published_rule(
    file: Path, source: str, published: Rates
) -> None:
    task = build(file)
    names, groups = published_names(task, source), parameter_groups(task, task.optim)
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            name = names[id(parameter)]
            is_head = any(part in name for part in HEADS)
            factor = published.head if is_head else published.cross_modal if "cross_modal" in name else 1.0
            decay = 0.0 if any(part in name for part in (*NO_DECAY, *CLIP_NORMS)) else 0.01
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(published.lr * factor), decay), name
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    grouped = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in trained}


def test_every_recipe_of_meter_has_its_published_values_here() -> None:
    shipped = {file.parent.name for file in EXPERIMENTS.glob("*/meter_*.yaml") if file.parent.name != "ablations"}
    assert shipped == METER.keys()


def test_every_recipe_of_vlmo_has_its_published_values_here() -> None:
    shipped = {(file.parent.name, size_of(file)) for file in EXPERIMENTS.glob("*/vlmo_*.yaml")}
    shipped = {(task, size) for task, size in shipped if task in VLMO and "toy" not in size}
    assert shipped == {(task, size) for task, sizes in VLMO.items() for size in sizes}


def test_the_norms_of_experts_are_decayed_where_asked() -> None:
    task = VQATask({**EXPERTS, "kind": "mome", "intermediate": 32, "fusion_layers": 1}, answers=3)
    norms = {f"model.blocks.1.experts.{name}.norm.weight" for name in ("text", "image", "pair")}
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    for asked in (False, True):
        groups = parameter_groups(task, OptimConfig(decay_expert_norms=asked))
        decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}  # type: ignore[attr-defined]
        assert (norms <= decayed) is asked
        assert "model.blocks.1.norm.weight" not in decayed
        assert "model.blocks.1.experts.text.norm.bias" not in decayed
        assert "model.position_bias" not in decayed
        assert {"model.blocks.1.scale_1", "model.image.class_embedding"} <= decayed


def test_an_optimiser_that_was_saved_unfused_goes_on_fused_and_skips_on_the_device() -> None:
    task = VQATask("tiny", answers=3)
    optimizer, _ = make_optimizer(task, task.optim, 10)
    saved: dict[str, Any] = {"optimizer_states": [optimizer.state_dict()]}
    for group in saved["optimizer_states"][0]["param_groups"]:
        group |= {"fused": False, "foreach": False}
    task.on_load_checkpoint(saved)
    optimizer.load_state_dict(saved["optimizer_states"][0])
    assert can_skip(optimizer)
    before = [weight.detach().clone() for weight in task.parameters()]
    for weight in task.parameters():
        weight.grad = torch.full_like(weight, torch.nan)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, task.parameters(), strict=True))
    assert not can_skip(torch.optim.SGD(task.parameters(), lr=0.1))
