"""Cases of the tokenizer, the image processor and both together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vle_lightning.inference.processor import Processor
from vle_lightning.parity.checks import EXACT, PIXELS, Check, compare, equal
from vle_lightning.parity.fixtures import Case


def run_tokenizer(case: Case) -> Iterator[Check]:
    """Tokens, ids, masks and decoded text of single texts, a pair, a truncated and a padded text."""
    processor, content = Processor.from_pretrained(case.folder.path), case.content
    tokenizer = processor.tokenizer
    yield equal("len", len(tokenizer), content["len"])
    yield equal("vocab_size", tokenizer.vocab_size, content["vocab_size"])
    special = {name: [getattr(tokenizer, name), getattr(tokenizer, f"{name}_id")] for name in content["special"]}
    yield equal("special", special, content["special"])
    for number, wanted in enumerate(content["single"]):
        ours = {
            "text": wanted["text"],
            "tokens": tokenizer.tokenize(wanted["text"]),
            "decode": processor.decode(tokenizer(wanted["text"])["input_ids"]),
            **tokenizer(wanted["text"], return_token_type_ids=True),
        }
        yield from fields(f"single.{number}", ours, wanted)
    for name, options in SETTINGS.items():
        wanted = content[name]
        ours = wanted | encode(tokenizer, wanted, options)
        yield from fields(name, ours, wanted)


SETTINGS: dict[str, dict[str, object]] = {
    "pair": {},
    "truncate": {"truncation": True},
    "pad": {"padding": "max_length"},
}


def encode(
    tokenizer: PreTrainedTokenizerBase, wanted: dict[str, object], options: dict[str, object]
) -> dict[str, object]:
    """Encode the text (and pair) of a case; only what our tokenizer gives may overwrite what is wanted."""
    limit = {"max_length": wanted["max_length"]} if "max_length" in wanted else {}
    outputs = ("attention_mask", "token_type_ids", "special_tokens_mask")
    asked = {f"return_{name}": name in wanted for name in outputs}
    encoded = tokenizer(wanted["text"], wanted.get("pair"), **options, **limit, **asked)
    return {name: encoded.get(name) for name in ("input_ids", *outputs) if name in wanted}


def fields(name: str, ours: dict[str, object], wanted: dict[str, object]) -> Iterator[Check]:
    """Compare each field of a record; one that is not produced here is a failure."""
    for key, reference in wanted.items():
        if key not in ("text", "pair", "max_length"):  # what went in
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
    processor = Processor.from_pretrained(case.folder.path)
    input_ids, mask = processor.tokenize(case.content["text"])
    ours: dict[str, Tensor] = {
        "input_ids": input_ids,
        "attention_mask": mask.long(),
        "token_type_ids": torch.zeros_like(input_ids),  # of single texts; VLE's text tower has no token types
        "pixel_values": processor.pixels([case.folder.path / file for file in case.content["images"]]),
    }
    for name, reference in case.group("output").items():
        yield compare(f"output.{name}", ours.get(name), reference, PIXELS if name == "pixel_values" else EXACT)
