"""Cases of the tokenizer, the image processor and both together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vle_lightning.inference.processor import Processor
from vle_lightning.parity.checks import EXACT, PIXELS, Check, compare, equal, failure
from vle_lightning.parity.fixtures import Case

GIVEN = ("text", "pair", "max_length")  # what went in
ENCODINGS: dict[str, dict[str, object]] = {  # recorded once each, and with which settings
    "pair": {},
    "truncate": {"truncation": True},
    "pad": {"padding": "max_length"},
}
SETTINGS = {"padding": True, "return_tensors": "pt"}  # of the recorded batch; the processor does that by itself


def run_tokenizer(case: Case) -> Iterator[Check]:
    """Tokens, ids, masks and decoded text of single texts, a pair, a truncated and a padded text."""
    processor, content = Processor.from_pretrained(case.folder.path), case.content
    tokenizer = processor.tokenizer
    whole = {
        "len": len(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "special": {name: [getattr(tokenizer, name), getattr(tokenizer, f"{name}_id")] for name in content["special"]},
    }
    for name, wanted in content.items():
        if name in whole:
            yield equal(name, whole[name], wanted)
        elif name in ENCODINGS:
            yield from check_fields(name, encode(processor, wanted, ENCODINGS[name]), wanted)
        elif name != "single":
            yield failure(name, "unknown: this harness does not encode that")
    for number, wanted in enumerate(content["single"]):
        yield from check_fields(f"single.{number}", encode(processor, wanted, {}), wanted)


def encode(processor: Processor, wanted: dict[str, Any], settings: dict[str, object]) -> dict[str, object]:
    """Encode the text or pair of a record; masks only where they are wanted."""
    tokenizer = processor.tokenizer
    limit = {"max_length": wanted["max_length"]} if "max_length" in wanted else {}
    masks = ("attention_mask", "token_type_ids", "special_tokens_mask")
    asked = {f"return_{name}": name in wanted for name in masks}
    encoded = tokenizer(wanted["text"], wanted.get("pair"), **settings, **limit, **asked)
    return {
        **encoded,
        "tokens": tokenizer.tokenize(wanted["text"]),
        "decode": processor.decode(encoded["input_ids"]),
    }


def check_fields(name: str, ours: dict[str, object], wanted: dict[str, object]) -> Iterator[Check]:
    """Compare each field of a record; one that is not produced here is a failure."""
    for key, reference in wanted.items():
        if key not in GIVEN:
            yield equal(f"{name}.{key}", ours.get(key), reference)


def run_images(case: Case) -> Iterator[Check]:
    """CLIPImageProcessor, one picture at a time."""
    processor = Processor.from_pretrained(case.folder.path)
    files = case.content["files"]
    for name, reference in case.group("output").items():
        ours = processor.pixels([case.folder.path / files[name]]) if name in files else None
        yield compare(f"output.{name}", ours, reference, PIXELS)


def run_processor(case: Case) -> Iterator[Check]:
    """VLEProcessor: a batch of texts, padded to the longest, and their pictures."""
    processor, settings = Processor.from_pretrained(case.folder.path), case.content.get("kwargs", SETTINGS)
    if settings != SETTINGS:
        yield failure("kwargs", f"unknown settings {settings}: this harness runs {SETTINGS}")
        return
    input_ids, mask = processor.tokenize(case.content["text"])
    ours: dict[str, Tensor] = {
        "input_ids": input_ids,
        "attention_mask": mask.long(),
        "token_type_ids": torch.zeros_like(input_ids),  # of single texts; VLE's text tower has no token types
        "pixel_values": processor.pixels([case.folder.path / file for file in case.content["images"]]),
    }
    for name, reference in case.group("output").items():
        yield compare(f"output.{name}", ours.get(name), reference, PIXELS if name == "pixel_values" else EXACT)
