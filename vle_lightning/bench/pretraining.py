"""One pre-training step of the four objectives beside the plain recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DebertaV2Model
from transformers.models.clip.modeling_clip import CLIPEncoder

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.bench.timing import (
    Measurement,
    best_of_alternating,
    product_seconds,
    seconds_of,
    share_of_product_rate,
)
from vle_lightning.flops import count_flops
from vle_lightning.objectives.base import Objective
from vle_lightning.objectives.passes import fuse_views
from vle_lightning.resident import peaks_apart
from vle_lightning.streams import Fused
from vle_lightning.tasks.pretrain import PretrainTask

Recipe: TypeAlias = Callable[[PretrainTask, PretrainBatch], Tensor]
BATCH, REGIONS, CLASSES = 4, 5, 1600
SHORTEST, LONGEST, PADDED = 8, 20, 50  # tokens; the plain recipe pads every text to 50


def make_batch(image_size: int, vocabulary: int, shortest: int = SHORTEST, longest: int = LONGEST) -> PretrainBatch:
    """Draw four random pairs with seed 0, text lengths uniform in 8-20 tokens by default, five boxes each."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (BATCH,), generator=random)
    tokens = int(lengths.max())
    mask = torch.arange(tokens) < lengths[:, None]
    ids = torch.randint(5, vocabulary, (BATCH, tokens), generator=random).masked_fill(~mask, 0)
    chosen = (torch.rand(BATCH, tokens, generator=random) < 0.15) & mask
    corner = torch.rand(BATCH, REGIONS, 2, generator=random) * 0.6
    return PretrainBatch(
        sample_ids=tuple(str(row) for row in range(BATCH)),
        valid=torch.ones(BATCH, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(BATCH, 3, image_size, image_size, generator=random),
        input_ids=ids,
        attention_mask=mask,
        texts=("",) * BATCH,
        keys=torch.arange(BATCH)[:, None].expand(-1, 3),
        masked_input_ids=ids.masked_fill(chosen, 4),
        mlm_targets=ids.masked_fill(~chosen, IGNORED),
        mlm_content=chosen,
        partner=torch.tensor([1, 2, 2, 3]),
        drawn_rows=torch.zeros(0, dtype=torch.long),
        drawn_pixel_values=torch.zeros(0, 3, image_size, image_size),
        boxes=torch.cat([corner, corner + 0.3], dim=-1),
        box_valid=torch.ones(BATCH, REGIONS, dtype=torch.bool),
        box_mentioned=torch.arange(REGIONS).expand(BATCH, REGIONS) < 2,
        hidden_boxes=torch.cat([corner, corner + 0.3], dim=-1)[:, :1],
        hidden_classes=torch.randint(0, CLASSES, (BATCH, 1), generator=random),
        hidden_patches=torch.zeros(BATCH, 0, dtype=torch.bool),
        patch_codes=torch.zeros(BATCH, 0, dtype=torch.long),
    )


def padded(batch: PretrainBatch, tokens: int = PADDED) -> PretrainBatch:
    """Pad the texts to 50 tokens, as METER and ViLT do, or to another length."""
    more = tokens - batch.input_ids.shape[1]
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, more)),
        masked_input_ids=F.pad(batch.masked_input_ids, (0, more)),
        attention_mask=F.pad(batch.attention_mask, (0, more)),
        mlm_targets=F.pad(batch.mlm_targets, (0, more), value=IGNORED),
        mlm_content=F.pad(batch.mlm_content, (0, more)),
    )


def our_loss(task: PretrainTask, batch: PretrainBatch) -> Tensor:
    """Encode each view once and fuse all pairs in one call."""
    return torch.stack([output.loss for output in task.judge(batch).values()]).sum()


def plain_loss(task: PretrainTask, batch: PretrainBatch) -> Tensor:
    """Run the whole model once an objective and score every word at every token; one sum of losses."""
    batch = padded(batch)
    losses = []
    for objective in task.objectives.values():
        assert isinstance(objective, Objective)
        (fused,) = fuse_views(task.model, batch, [objective.views], objective.vectors())
        losses.append(all_words_loss(task, fused, batch) if objective.name == "mlm" else objective(fused, batch).loss)
    return torch.stack(losses).sum()


def all_words_loss(task: PretrainTask, fused: Fused, batch: PretrainBatch) -> Tensor:
    """Score every word at every token, and judge the masked ones."""
    mlm = task.objectives["mlm"]
    logits = mlm.get_submodule("decoder")(mlm.get_submodule("transform")(fused.text))
    return F.cross_entropy(logits.flatten(0, 1), batch.mlm_targets.flatten(), ignore_index=IGNORED)


def step_seconds(loss: Recipe, task: PretrainTask, batch: PretrainBatch) -> float:
    """Run forward and backward once and return the seconds."""
    task.zero_grad(set_to_none=True)
    return seconds_of(lambda: loss(task, batch).backward())


RECIPES: dict[str, Recipe] = {"ours": our_loss, "plain": plain_loss}


def build(architecture: str) -> tuple[PretrainTask, PretrainBatch]:
    """Build the four objectives over a model with fixed weights, without dropout, and their batch."""
    torch.manual_seed(0)
    task = PretrainTask(architecture, classes=CLASSES).eval()
    return task, make_batch(task.model.config.image_size, task.model.vocabulary)


class Published(nn.Module):
    """A tower of transformers, as the authors' code runs it, with the weights of ours."""

    def __init__(self, tower: nn.Module, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tower = tower.eval()
        self.tower.load_state_dict(weights)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode token ids (B, T) with their mask, or embedded patches (B, N, D): the last states."""
        given = {"inputs_embeds": inputs} if mask is None else {"input_ids": inputs, "attention_mask": mask.long()}
        states: Tensor = self.tower(**given).last_hidden_state
        return states


def build_plain(architecture: str) -> tuple[PretrainTask, PretrainBatch]:
    """Build the same, with transformers' DeBERTa and CLIP in the place of our layers."""
    task, batch = build(architecture)
    towers = task.model.encoders()
    text, image = (towers[side].get_submodule(part) for side, part in (("text", "model"), ("image", "encoder")))
    deberta, clip = DebertaV2Model(text.config), CLIPEncoder(image.config)
    towers["text"].add_module("model", Published(deberta, text.state_dict()))
    towers["image"].add_module("encoder", Published(clip, image.state_dict()))
    mlm = task.objectives["mlm"].get_submodule("decoder")
    mlm.weight = deberta.get_input_embeddings().weight  # tied, as before
    return task, batch


BUILDS = {"ours": build, "plain": build_plain}


def whole_step(recipe: str, architecture: str) -> None:
    """Build everything and run one step."""
    task, batch = BUILDS[recipe](architecture)
    step_seconds(RECIPES[recipe], task, batch)


def bench_memory(architecture: str, repeats: int) -> Measurement:
    """Measure the peak memory of both recipes, once, each in a process of its own."""
    del repeats
    memory = peaks_apart({name: partial(whole_step, name, architecture) for name in RECIPES})
    return {
        "peak_memory_gib/ours": memory["ours"],
        "peak_memory_gib/plain": memory["plain"],
        "peak_memory_ratio": memory["ours"] / memory["plain"],
    }


def bench_step(architecture: str, repeats: int) -> Measurement:
    """Time both recipes and a large matrix product in turn, best of ``repeats``.

    The step's share of the product's rate says what is left to win on this machine, whatever machine it is.
    """
    built = {name: make(architecture) for name, make in BUILDS.items()}
    best = best_of_alternating(
        {
            **{name: partial(step_seconds, recipe, *built[name]) for name, recipe in RECIPES.items()},
            "product": product_seconds,
        },
        repeats,
    )
    task, batch = built["ours"]
    flops = count_flops(task, lambda: our_loss(task, batch))
    return {
        "step_seconds/ours": best["ours"],
        "step_seconds/plain": best["plain"],
        "step_speedup": best["plain"] / best["ours"],
        "step_gigaflops/ours": flops / 1e9,
        **share_of_product_rate("step", flops, best["ours"], best["product"]),
    }
