"""VCR: four choices in one pass here, in four passes there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.factories import dual, of_kind
from vle_lightning.fusion.co_attention import CoAttention
from vle_lightning.parity.command import check_fixtures
from vle_lightning.parity.models import membership, padded
from vle_lightning.tasks.vcr import Regions, VCRTask

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_layers_of_choices_that_ran_one_by_one_are_found(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "vle_vcr_q2a", tmp_path / "vle_vcr_q2a")
    file = folder / "cases" / "four_choices.safetensors"
    tensors, content = load_file(file), json.loads(file.with_suffix(".json").read_text())
    recorded = one_by_one(folder, tensors, content["inputs_json"])
    save_file(tensors | recorded, file)
    lines: list[str] = []
    assert check_fixtures(tmp_path, lines.append).ok, "\n".join(lines)
    assert sum(" mid." in line and " FAIL" not in line for line in lines) == len(recorded) == 20


def one_by_one(folder: Path, tensors: dict[str, Tensor], arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Run the choices in the authors' order, each in a pass of its own, and record a layer of each kind."""
    task = VCRTask.from_pretrained(folder, mode="q2a").eval()
    model = dual(task.model)
    fusion = of_kind(CoAttention, model.fusion)
    layers: dict[str, nn.Module] = {
        "text_model.encoder.layer.1": model.text.layers[1],
        "vision_model.vision_model.encoder.layers.1": model.image.layers[1],
        "cross_modal_text_layers.1": fusion.text[1],
        "cross_modal_image_layers.1": fusion.image[1],
        "cross_modal_image_pooler": model.image_pooler,
    }
    found: dict[str, Tensor] = {}
    for choice in range(4):
        suffix = f"@call{choice + 1}" if choice else ""

        def keep(name: str, suffix: str = suffix) -> Callable[[nn.Module, object, Any], None]:
            return lambda _, __, output: found.update(
                {f"mid.vle.{name}{suffix}": output if isinstance(output, Tensor) else output[0]}
            )

        handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
        ids, mask = tensors[f"input.input_ids.{choice}"], tensors[f"input.attention_mask.{choice}"].bool()
        boxes, (image_types, text_types) = (arguments[key][choice] for key in ("patch_ids", "extend_token_type_ids"))
        valid = padded([[1] * len(row) for row in boxes]).bool()
        with torch.no_grad():
            regions = Regions(membership(boxes, 16)[:, None], valid[:, None], padded(image_types)[:, None])
            image = model.encode_image(tensors["input.pixel_values"])
            types = padded(text_types, ids.shape[1])[:, None]
            task.score_choices(model.encode_text(ids, mask), image, regions, types)
        for handle in handles:
            handle.remove()
    return found
