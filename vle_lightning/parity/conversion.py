"""Cases of the VCR pipelines' conversion, in compatible mode, and of what the models make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vle_lightning.hub.vle import encoder_config
from vle_lightning.inference.pictures import open_picture
from vle_lightning.inference.processor import Processor
from vle_lightning.inference.vcr_compatible import PersonNames, VCRInputs, convert, score
from vle_lightning.parity.checks import EXACT, OUTPUT, PIXELS, Bound, Check, compare, compare_loss, equal, failure
from vle_lightning.parity.fixtures import DATA_ONLY, Case, read_json
from vle_lightning.tasks.vcr import VCRTask

HEADS = {"q2a": "vcr_q2a_logit", "qa2r": "vcr_qa2r_logit"}
BOUNDS: dict[str, Bound] = {"pixel_values": PIXELS, "logits": OUTPUT}  # of the tensors; the others are exact
PARTS = ("fresh_pipeline", "same_pipeline_in_file_order")


def run_conversion(case: Case) -> Iterator[Check]:
    """What ``preprocess`` returns, the logits and the loss, for a new pipeline and for one that served before.

    Each part starts from the count of person names that it recorded, so it can be checked without the questions
    that its pipeline served before.
    """
    root, content = case.folder.path, case.content
    annotation = read_json(root / "cases" / f"{DATA_ONLY}.json")[content["annotation"]]
    metadata = read_json(root / "images" / annotation["metadata_fn"])
    file = root / "images" / annotation["img_fn"]
    size = open_picture(file).size
    yield equal("image_size", list(size), content["image_size"])
    processor = Processor.from_pretrained(root)
    pixels = processor.pixels([file])
    scored = "logits" in case.tensors or any("logits" in content.get(part, {}) for part in PARTS)
    model = case.folder.sibling(HEADS[content["task"]] if scored else "vle")
    task = VCRTask.from_pretrained(model.path, mode=content["task"]).eval() if scored else None
    grid = encoder_config(model.config).build().layout.grid(pixels)
    for part in PARTS:
        if part not in content:
            yield failure(part, "missing: the case's JSON does not hold it")
            continue
        names = PersonNames(content[part]["person_name_id_before"])
        inputs = convert(annotation, metadata, size, content["task"], processor.tokenizer, grid=grid, names=names)
        yield from check_part(part, inputs, names, content[part])
        ours = tensors(inputs) | {"pixel_values": pixels}
        if task is not None:
            with torch.no_grad():
                ours["logits"] = score(task, [inputs], pixels)
            yield from check_scores(part, ours["logits"], inputs, content[part])
        if part == PARTS[0]:
            boxes = [[list(found.box), found.patches] for found in inputs.patch_boxes]
            yield equal("patch_boxes", boxes, content["patch_boxes"])
            if "pipeline_pred" in content:
                yield equal("pipeline_pred", best_of(ours.get("logits")), content["pipeline_pred"])
            for name, reference in case.tensors.items():
                yield compare(f"tensors.{name}", ours.get(name), reference, BOUNDS.get(name, EXACT))


def check_part(part: str, inputs: VCRInputs, names: PersonNames, wanted: dict[str, Any]) -> Iterator[Check]:
    """Compare all that one pipeline made of a question before the model ran."""
    types = zip(inputs.region_types, inputs.text_types, strict=True)
    ours: dict[str, object] = {
        "person_name_id_after": names.position,
        "build_text": {
            "text_tokens": [text.tokens for text in inputs.texts],
            "text_ids": list(inputs.text_ids),
            "obj_tags": [text.tags for text in inputs.texts],
            "text_raw": [text.raw for text in inputs.texts],
        },
        **{name: value.tolist() for name, value in tensors(inputs).items()},
        "patch_ids": [[boxes] for boxes in inputs.patch_ids],
        "extend_token_type_ids": [[[image], [text]] for image, text in types],
        "vcr_labels": [inputs.label],
    }
    for name, reference in wanted.items():
        if name not in ("person_name_id_before", "logits", "loss"):
            yield equal(f"{part}.{name}", ours.get(name), reference)


def check_scores(part: str, logits: Tensor, inputs: VCRInputs, wanted: dict[str, Any]) -> Iterator[Check]:
    """Compare what the model makes of a question."""
    yield compare(f"{part}.logits", logits, torch.tensor(wanted["logits"]), OUTPUT)
    yield compare_loss(f"{part}.loss", F.cross_entropy(logits, torch.tensor([inputs.label])), wanted["loss"])


def best_of(logits: Tensor | None) -> int | None:
    """Return the number of the best choice, where there are logits."""
    return None if logits is None else int(logits.argmax())


def tensors(inputs: VCRInputs) -> dict[str, Tensor]:
    """Give the three token tensors the published layout, (4, 1, T)."""
    fields = ("input_ids", "attention_mask", "token_type_ids")
    return {name: getattr(inputs, name).long()[:, None] for name in fields}
