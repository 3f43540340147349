"""Cases of the VCR pipelines' conversion, in compatible mode, and of what the models make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vle_lightning.encoders.image import patch_grid
from vle_lightning.inference.processor import Processor
from vle_lightning.inference.vcr_compatible import PersonNames, VCRInputs, convert, score
from vle_lightning.parity.checks import EXACT, OUTPUT, PIXELS, Bound, Check, compare, compare_loss, equal, failure
from vle_lightning.parity.fixtures import DATA_ONLY, Case, read_json
from vle_lightning.tasks.vcr import VCRTask

HEADS = {"q2a": "vcr_q2a_logit", "qa2r": "vcr_qa2r_logit"}
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
    with Image.open(file) as image:
        size = image.size
    yield equal("image_size", list(size), content["image_size"])
    processor = Processor.from_pretrained(root)
    pixels = processor.pixels([file])
    sibling = case.folder.sibling(HEADS[content["task"]])
    task = VCRTask.from_pretrained(sibling.path, mode=content["task"]).eval()
    grid = patch_grid(pixels, task.model.config.image.patch_size)
    for part in PARTS:
        if part not in content:
            yield failure(part, "missing: the case's JSON does not hold it")
            continue
        names = PersonNames(content[part]["person_name_id_before"])
        inputs = convert(annotation, metadata, size, content["task"], processor.tokenizer, grid=grid, names=names)
        with torch.no_grad():
            logits = score(task, [inputs], pixels)
        yield from check_part(part, inputs, names, logits, content[part])
        if part == PARTS[0]:
            yield equal("pipeline_pred", int(logits.argmax()), content["pipeline_pred"])
            boxes = [[list(found.box), found.patches] for found in inputs.patch_boxes]
            yield equal("patch_boxes", boxes, content["patch_boxes"])
            yield from check_tensors(case, tensors(inputs) | {"pixel_values": pixels, "logits": logits})


def check_part(
    part: str, inputs: VCRInputs, names: PersonNames, logits: Tensor, wanted: dict[str, Any]
) -> Iterator[Check]:
    """Compare all that one pipeline recorded of a question."""
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
    yield compare(f"{part}.logits", logits, torch.tensor(wanted["logits"]), OUTPUT)
    yield compare_loss(f"{part}.loss", F.cross_entropy(logits, torch.tensor([inputs.label])), wanted["loss"])


def tensors(inputs: VCRInputs) -> dict[str, Tensor]:
    """Give the three token tensors the published layout, (4, 1, T)."""
    fields = ("input_ids", "attention_mask", "token_type_ids")
    return {name: getattr(inputs, name).long()[:, None] for name in fields}


BOUNDS: dict[str, Bound] = {"pixel_values": PIXELS, "logits": OUTPUT}


def check_tensors(case: Case, ours: dict[str, Tensor]) -> Iterator[Check]:
    """Compare the tensors of the new pipeline."""
    for name, reference in case.tensors.items():
        yield compare(f"tensors.{name}", ours.get(name), reference, BOUNDS.get(name, EXACT))
