"""METER once more, in plain functions over the tensors of its file.

It shares nothing with the code under test, and makes reference folders as those of the authors' numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.hub.meter_file import ANSWERS, SIZE, WIDTH, WORDS, meter_weights

Weights = dict[str, Tensor]
LAYERS, TEXT_HEADS, FUSION_HEADS = 2, 3, 2
Result = tuple[dict[str, Tensor], Tensor | None]


def linear(weights: Weights, name: str, states: Tensor) -> Tensor:
    """Apply a linear layer."""
    return F.linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(weights: Weights, name: str, states: Tensor, eps: float) -> Tensor:
    """Apply a layer norm."""
    return F.layer_norm(states, states.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Attend in several heads: queries (B, N, D), keys and values (B, M, D), mask (B, M)."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + (~mask)[:, None, None] * -10_000.0
    attended: Tensor = scores.softmax(-1) @ value
    return attended.transpose(1, 2).flatten(2)


def bert_attention(
    w: Weights, name: str, states: Tensor, context: Tensor, mask: Tensor, heads: int, eps: float
) -> Tensor:
    """Attend, add and normalise as BERT does."""
    query = linear(w, f"{name}.self.query", states)
    key, value = (linear(w, f"{name}.self.{part}", context) for part in ("key", "value"))
    after = linear(w, f"{name}.output.dense", attend(query, key, value, heads, mask))
    return norm(w, f"{name}.output.LayerNorm", after + states, eps)


def bert_feed_forward(w: Weights, name: str, states: Tensor, eps: float) -> Tensor:
    """Widen, narrow, add and normalise as BERT does."""
    after = linear(w, f"{name}.output.dense", F.gelu(linear(w, f"{name}.intermediate.dense", states)))
    return norm(w, f"{name}.output.LayerNorm", after + states, eps)


def encode_text(w: Weights, ids: Tensor, mask: Tensor, mid: dict[str, Tensor]) -> Tensor:
    """Encode B texts with RoBERTa, projected: positions count real tokens from 2, padding stands at 1."""
    root, places = "text_transformer.embeddings", mask.cumsum(1) * mask + 1
    states = w[f"{root}.word_embeddings.weight"][ids] + w[f"{root}.position_embeddings.weight"][places]
    states = norm(w, f"{root}.LayerNorm", states + w[f"{root}.token_type_embeddings.weight"][0], 1e-5)
    mid["text_transformer.embeddings"] = states
    for number in range(LAYERS):
        name = f"text_transformer.encoder.layer.{number}"
        states = bert_attention(w, f"{name}.attention", states, states, mask, TEXT_HEADS, 1e-5)
        states = mid[name] = bert_feed_forward(w, name, states, 1e-5)
    return linear(w, "cross_modal_text_transform", states)


def encode_image(w: Weights, pixels: Tensor, mid: dict[str, Tensor]) -> Tensor:
    """Encode B images with CLIP's ViT, the last norm on every token, projected."""
    root = "vit_model.visual"
    kernel = w[f"{root}.conv1.weight"]
    mid[f"{root}.conv1"] = F.conv2d(pixels, kernel, stride=kernel.shape[-1])
    patches = mid[f"{root}.conv1"].flatten(2).transpose(1, 2)
    first = w[f"{root}.class_embedding"].expand(len(patches), 1, -1)
    states = torch.cat([first, patches], 1) + w[f"{root}.positional_embedding"]
    states = mid[f"{root}.ln_pre"] = norm(w, f"{root}.ln_pre", states, 1e-5)
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    for number in range(LAYERS):
        name = f"{root}.transformer.resblocks.{number}"
        before = norm(w, f"{name}.ln_1", states, 1e-5)
        joined = F.linear(before, w[f"{name}.attn.in_proj_weight"], w[f"{name}.attn.in_proj_bias"])
        query, key, value = joined.chunk(3, -1)
        states = states + linear(w, f"{name}.attn.out_proj", attend(query, key, value, 1, mask))
        inner = linear(w, f"{name}.mlp.c_fc", norm(w, f"{name}.ln_2", states, 1e-5))
        states = states + linear(w, f"{name}.mlp.c_proj", inner * torch.sigmoid(1.702 * inner))
        mid[name] = states.transpose(0, 1)  # the authors' blocks are sequence first
    states = mid["vit_model"] = norm(w, f"{root}.ln_post", states, 1e-5)
    return linear(w, "cross_modal_image_transform", states)


def infer(w: Weights, ids: Tensor, mask: Tensor, pixels: Tensor, image_type: int = 1) -> dict[str, Tensor]:
    """Run METER on B pairs: its three outputs, and what its submodules give, under ``mid.NAME``."""
    mid: dict[str, Tensor] = {}
    types = w["token_type_embeddings.weight"]
    text, image = encode_text(w, ids, mask, mid) + types[0], encode_image(w, pixels, mid) + types[image_type]
    seen = torch.ones(image.shape[:2], dtype=torch.bool)
    for number in range(LAYERS):
        old = {"text": (text, mask, image, seen), "image": (image, seen, text, mask)}
        for side, (own, own_mask, other, other_mask) in old.items():
            name = f"cross_modal_{side}_layers.{number}"
            states = bert_attention(w, f"{name}.attention", own, own, own_mask, FUSION_HEADS, 1e-12)
            states = bert_attention(w, f"{name}.crossattention", states, other, other_mask, FUSION_HEADS, 1e-12)
            mid[name] = bert_feed_forward(w, name, states, 1e-12)
        text, image = mid[f"cross_modal_text_layers.{number}"], mid[f"cross_modal_image_layers.{number}"]
    pooled = [linear(w, f"cross_modal_{s}_pooler.dense", x[:, 0]).tanh() for s, x in (("text", text), ("image", image))]
    outputs = {"text_feats": text, "image_feats": image, "cls_feats": torch.cat(pooled, -1)}
    return outputs | {f"mid.{name}": value for name, value in mid.items()}


def classify(w: Weights, head: str, pooled: Tensor) -> Tensor:
    """Apply a classifier: linear, layer norm, GELU, linear."""
    return linear(w, f"{head}.3", F.gelu(norm(w, f"{head}.1", linear(w, f"{head}.0", pooled), 1e-5)))


def write_case(
    folder: Path, name: str, inputs: dict[str, Tensor], run: Callable[[Weights], Result], **arguments: object
) -> None:
    """Run a case on the folder's weights and write what went in and came out, with the norms of gradients."""
    weights = {key: value.requires_grad_(value.is_floating_point()) for key, value in folder_weights(folder).items()}
    outputs, loss = run(weights)
    content: dict[str, Any] = {"call": f"objectives.compute_{name}", "inputs_json": arguments}
    if loss is not None:
        loss.backward()
        outputs = {**outputs, f"{name}_loss": loss}
        norms = {key: None if value.grad is None else float(value.grad.norm()) for key, value in weights.items()}
        norms.pop("text_transformer.embeddings.position_ids")
        content |= {"loss": loss.item(), "loss_name": f"{name}_loss", "grad_norms": norms}
    tensors = {key if key.startswith("mid.") else f"output.{key}": value for key, value in outputs.items()}
    content["outputs"] = [key for key in outputs if not key.startswith("mid.")]
    tensors |= {f"input.{key}": value for key, value in inputs.items()}
    cases = folder / "cases"
    cases.mkdir(exist_ok=True)
    save_file(
        {key: value.detach().clone().contiguous() for key, value in tensors.items()}, cases / f"{name}.safetensors"
    )
    (cases / f"{name}.json").write_text(json.dumps(content))


def folder_weights(folder: Path) -> Weights:
    """Draw the weights of a folder, by the heads that its name says."""
    nlvr2 = folder.name.endswith("nlvr2")
    heads = ("nlvr2_classifier",) if nlvr2 else ("itm_score", "mlm_score", "vqa_classifier", "snli_classifier")
    return meter_weights(*heads, *(() if nlvr2 else ("rank_output",)), types=3 if nlvr2 else 2)


def write_folder(folder: Path) -> None:
    """Write weights and settings."""
    folder.mkdir(parents=True)
    save_file(folder_weights(folder), folder / "model.safetensors")
    config = {"num_heads": FUSION_HEADS, "hidden_size": WIDTH, "image_size": 224, "loss_names": {"itm": 1}}
    text = {"model_type": "roberta", "num_attention_heads": TEXT_HEADS, "pad_token_id": 1, "layer_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps({"config": config, "text": text, "vision": {}}))


def draw_texts(random: torch.Generator, prefix: str = "text") -> dict[str, Tensor]:
    """Draw three texts of 9, 7 and 4 tokens."""
    mask = torch.arange(9) < torch.tensor([9, 7, 4])[:, None]
    ids = torch.randint(4, WORDS, (3, 9), generator=random).masked_fill(~mask, 1)
    return {f"{prefix}_ids": ids, f"{prefix}_masks": mask.long()}


def write_reference(root: Path) -> None:
    """Write two folders: one with five heads, one of NLVR2."""
    random = torch.Generator().manual_seed(1)
    pixels, other = torch.randn(2, 3, 3, SIZE, SIZE, generator=random)
    texts = draw_texts(random)
    ids, mask = texts["text_ids"], texts["text_masks"].bool()
    pairs = {**texts, "image.0": pixels}
    folder = root / "five_heads"
    write_folder(folder)
    write_case(folder, "infer", pairs, lambda w: (infer(w, ids, mask, pixels), None))

    masked = ids.masked_fill((torch.arange(9) % 3 == 1) & mask, 4)  # padding stays: positions are counted by it
    labels = ids.masked_fill(masked == ids, -100)

    def mlm(w: Weights) -> Result:
        states = F.gelu(linear(w, "mlm_score.transform.dense", infer(w, masked, mask, pixels)["text_feats"]))
        states = norm(w, "mlm_score.transform.LayerNorm", states, 1e-12)
        logits = F.linear(states, w["mlm_score.decoder.weight"], w["mlm_score.bias"])
        return {"mlm_logits": logits}, F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    write_case(folder, "mlm", {**pairs, "text_ids_mlm": masked, "text_labels_mlm": labels}, mlm)

    match = torch.tensor([0, 1, 1])

    def itm(w: Weights) -> Result:
        shown = torch.where(match.bool()[:, None, None, None], pixels, other)
        logits = linear(w, "itm_score.fc", infer(w, ids, mask, shown)["cls_feats"])
        return {"itm_logits": logits, "itm_labels": match.float()}, F.cross_entropy(logits, match)

    write_case(folder, "itm", {**pairs, "false_image_0.0": other}, itm)

    def vqa(w: Weights) -> Result:
        logits = classify(w, "vqa_classifier", infer(w, ids, mask, pixels)["cls_feats"])
        targets = torch.zeros(3, ANSWERS)
        targets[0, 1], targets[0, 3], targets[2, 0] = 1.0, 0.3, 0.6
        outputs = {"vqa_logits": logits, "vqa_targets": targets}
        return outputs, F.binary_cross_entropy_with_logits(logits, targets) * ANSWERS

    write_case(folder, "vqa", pairs, vqa, vqa_labels=[[1, 3], [], [0]], vqa_scores=[[1.0, 0.3], [], [0.6]])

    def snli(w: Weights) -> Result:
        logits = classify(w, "snli_classifier", infer(w, ids, mask, pixels)["cls_feats"])
        return {"snli_logits": logits}, F.cross_entropy(logits, torch.tensor([2, 0, 1]))

    write_case(folder, "snli", pairs, snli, labels=[2, 0, 1])

    false = draw_texts(random, "false_text_0")

    def irtr(w: Weights) -> Result:
        both = ((ids, mask), (false["false_text_0_ids"], false["false_text_0_masks"].bool()))
        scores = [linear(w, "rank_output", infer(w, *text, pixels)["cls_feats"]) for text in both]
        logits = torch.cat(scores, 1)
        return {"rank_scores": logits}, F.cross_entropy(logits, torch.zeros(3, dtype=torch.long))

    write_case(folder, "irtr", {**pairs, **false}, irtr)

    def nlvr2(w: Weights) -> Result:
        pooled = [infer(w, ids, mask, image, place)["cls_feats"] for place, image in ((1, pixels), (2, other))]
        logits = classify(w, "nlvr2_classifier", torch.cat(pooled, -1))
        return {"nlvr2_logits": logits}, F.cross_entropy(logits, torch.tensor([1, 0, 1]))

    folder = root / "nlvr2"
    write_folder(folder)
    write_case(folder, "nlvr2", {**texts, "image_0.0": pixels, "image_1.0": other}, nlvr2, answers=[1, 0, 1])
