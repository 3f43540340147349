"""One step of VLMo's pre-training on pairs (ITC, hard ITM, MLM) beside the recipe as published.

The published step (unilm/vlmo) makes six passes: text and image alone, each with a tail through the experts for pairs,
and the joint transformer four times: for MLM, for the true pairs, and for each pair's image and text with a hard
negative. It pads each text to 40 tokens, writes the weights of attention out, embeds pictures and texts anew in each
pass, computes all states of the last block, and scores the vocabulary at every token.

The joint transformer takes most of the time, and both recipes send the same sixteen pairs through it. So what is saved
is the padding (197 + 40 states against 197 + 15), the states that nobody reads, the vocabulary, and what is embedded
again. Operations, which are counted too, say the same on a busy machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vle_lightning.batch import PretrainBatch
from vle_lightning.bench.pretraining import all_words_loss, make_batch, padded
from vle_lightning.bench.timing import Measurement, best_of_alternating, seconds_of
from vle_lightning.models.backbone import Modality
from vle_lightning.models.contrastive import contrastive_loss
from vle_lightning.models.experts import PAIR, Route, added_scores
from vle_lightning.models.mome import MoME
from vle_lightning.objectives.contrast import Vectors, draw_partners, gather
from vle_lightning.objectives.itc import ImageTextContrast
from vle_lightning.objectives.itm_hard import HardImageTextMatching
from vle_lightning.resident import peaks_apart
from vle_lightning.streams import Fused, Stream
from vle_lightning.tasks.base import micro_batch_seed
from vle_lightning.tasks.pretrain import PretrainTask

OBJECTIVES = {"itc": 1.0, "itm_hard": 1.0, "mlm": 1.0}  # losses are compared one by one
SHORTEST, LONGEST, PADDED = 12, 15, 40  # tokens of a caption; the published recipe pads each to 40
Losses: TypeAlias = dict[str, Tensor]
Recipe: TypeAlias = Callable[[PretrainTask, PretrainBatch], Losses]


def build(architecture: str) -> tuple[PretrainTask, PretrainBatch]:
    """Build the three objectives over a model with fixed weights, without dropout, and four pairs."""
    torch.manual_seed(0)
    task = PretrainTask(architecture, OBJECTIVES, tied=False).eval()
    return task, make_batch(task.model.config.image_size, task.model.vocabulary, SHORTEST, LONGEST)


def our_losses(task: PretrainTask, batch: PretrainBatch) -> Losses:
    """Embed each text and image once, and fuse all pairs in one call."""
    return {name: output.loss for name, output in task.judge(batch).items()}


@dataclass(frozen=True)
class PublishedStep:
    """The published recipe on one batch, padded."""

    task: PretrainTask
    batch: PretrainBatch

    def losses(self) -> Losses:
        """Run the paths alone, then the four joint passes; attention is the plain products and softmax that it is."""
        with sdpa_kernel(SDPBackend.MATH):
            return self._losses()

    def _losses(self) -> Losses:
        contrast, matching = self.task.objectives["itc"], self.task.objectives["itm_hard"]
        assert isinstance(contrast, ImageTextContrast)
        assert isinstance(matching, HardImageTextMatching)
        batch, rows = self.batch, torch.arange(len(self.batch))
        mlm = all_words_loss(self.task, self._joint(batch.masked_input_ids, rows, rows), batch)
        itc, texts, images = self._contrast(contrast)
        pairs = ((rows, rows), (texts, rows), (rows, images))
        logits = torch.cat([matching.head(self._joint(batch.input_ids, *pair).pooled) for pair in pairs])
        targets = torch.arange(3 * len(batch)) < len(batch)
        return {"itc": itc, "itm_hard": F.cross_entropy(logits, targets.long()), "mlm": mlm}

    def _contrast(self, contrast: ImageTextContrast) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, and the rows of the hard texts and of the hard images (B,)."""
        model, batch = self.task.model, self.batch
        texts = self._alone(model.encode_text(batch.input_ids, batch.attention_mask), "text")
        images = self._alone(model.encode_image(batch.pixel_values), "image")
        heads = contrast.heads()
        vectors = Vectors(
            torch.stack([head.embed_texts(text) for head, text in zip(heads, texts, strict=True)]),
            torch.stack([head.embed_images(image) for head, image in zip(heads, images, strict=True)]),
        )
        known = gather([Vectors(*(part.detach() for part in vectors))], [batch], alone=True)
        scores = [head(image, text) for head, text, image in zip(heads, *vectors, strict=True)]
        loss = torch.stack([contrastive_loss(score, known.same, known.valid) for score in scores]).mean()
        drawn = draw_partners(scores[0].detach(), known, "global", micro_batch_seed(0, 0, batch.number))
        return loss, drawn.texts, drawn.images

    def _alone(self, stream: Stream, modality: Modality) -> tuple[Stream, Stream]:
        """Pass all blocks by the modality's own experts, and from below the fusion layers on those for pairs."""
        model = self.task.model
        assert isinstance(model, MoME)
        states, mask = model.begin(stream, modality)
        biases = model.biases(model.index_alone(modality, states.shape[1]))
        scores = [added_scores(biases, number, mask) for number in range(len(model.blocks))]
        split, found = len(model.blocks) - model.config.fusion_layers, []
        for number, block in enumerate(model.blocks[:split]):
            states = block(states, scores[number], Route.whole(states, modality))
        for expert in (modality, PAIR):
            tail = states
            for number, block in enumerate(model.blocks[split:], start=split):
                tail = block(tail, scores[number], Route.whole(tail, expert))
            found.append(Stream(model.norm(tail), mask))
        return found[0], found[1]

    def _joint(self, input_ids: Tensor, texts: Tensor, images: Tensor) -> Fused:
        """Embed and fuse texts and images by their rows."""
        model, batch = self.task.model, self.batch
        text = model.encode_text(input_ids[texts], batch.attention_mask[texts])
        return model.fuse(text, model.encode_image(batch.pixel_values[images]))


def published_losses(task: PretrainTask, batch: PretrainBatch) -> Losses:
    """Run the published recipe; the rows of `make_batch` stand in the order of their keys, as those drawn do."""
    return PublishedStep(task, padded(batch, PADDED)).losses()


RECIPES: dict[str, Recipe] = {"ours": our_losses, "published": published_losses}


def step(recipe: Recipe, task: PretrainTask, batch: PretrainBatch) -> None:
    """Run forward and backward once."""
    task.zero_grad(set_to_none=True)
    torch.stack(list(recipe(task, batch).values())).sum().backward()


def whole_step(recipe: str, architecture: str) -> None:
    """Build everything and run one step."""
    task, batch = build(architecture)
    step(RECIPES[recipe], task, batch)


def bench_vlmo_step(architecture: str, repeats: int) -> Measurement:
    """Compare at VLMo-base, whatever is measured elsewhere."""
    del architecture
    return compare_steps("vlmo-base", repeats)


def compare_steps(architecture: str, repeats: int) -> Measurement:
    """Compare losses, operations, times in turn (best of ``repeats``), and memory, each recipe's in its own process."""
    memory = peaks_apart({name: partial(whole_step, name, architecture) for name in RECIPES})
    task, batch = build(architecture)
    with torch.no_grad():
        losses = {name: recipe(task, batch) for name, recipe in RECIPES.items()}
    flops = {name: _flops(recipe, task, batch) for name, recipe in RECIPES.items()}
    processor: dict[str, list[float]] = {name: [] for name in RECIPES}

    def measure(name: str) -> float:
        start = time.process_time()
        seconds = seconds_of(lambda: step(RECIPES[name], task, batch))
        processor[name].append(time.process_time() - start)
        return seconds

    best = best_of_alternating({name: partial(measure, name) for name in RECIPES}, repeats)
    least = {name: min(seconds) for name, seconds in processor.items()}
    return {
        **{f"vlmo_{kind}_loss/{name}": float(loss) for name, found in losses.items() for kind, loss in found.items()},
        **{f"vlmo_step_seconds/{name}": seconds for name, seconds in best.items()},
        "vlmo_step_speedup": best["published"] / best["ours"],
        **{f"vlmo_step_processor_seconds/{name}": seconds for name, seconds in least.items()},
        "vlmo_step_processor_ratio": least["published"] / least["ours"],
        **{f"vlmo_step_gigaflops/{name}": count / 1e9 for name, count in flops.items()},
        "vlmo_step_flops_ratio": flops["published"] / flops["ours"],
        **{f"vlmo_peak_memory_gib/{name}": gib for name, gib in memory.items()},
        "vlmo_memory_ratio": memory["published"] / memory["ours"],
    }


def _flops(recipe: Recipe, task: PretrainTask, batch: PretrainBatch) -> int:
    """Count the operations of a step, forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(recipe, task, batch)
    flops: int = counter.get_total_flops()
    return flops
